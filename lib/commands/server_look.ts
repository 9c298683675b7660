import type { ConnectionSettings } from "../conninfo/settings.ts";
import type { Log } from "../log.ts";
import { knowsReadReplicationSlot } from "../protocol/commands.ts";
import { connect } from "../session/connect.ts";
import type { ReplicationViews, Session } from "../session/session.ts";
import { emptyHistory, parseHistory, type TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** What a server says of itself and of whoever receives from it. */
export interface ServerLook {
  readonly address: string;
  readonly serverVersion: number;
  readonly systemIdentifier: bigint;
  readonly timeline: TimelineId;
  /** Of its timeline; `undefined` when it does not have the history itself. */
  readonly lineage: TimelineHistory | undefined;
  /** Its own end of durable WAL, at `askedAtMs`. */
  readonly flushLsn: Lsn;
  /** By `performance.now()`: what is written from here on is not in `flushLsn`. */
  readonly askedAtMs: number;
  /** `undefined` when it lets nobody in for SQL; `viewsProblem` is why. */
  readonly views: ReplicationViews | undefined;
  readonly viewsProblem: unknown;
  /** The named slot, where `views` can't tell more of it. */
  readonly slotRestartLsn: Lsn | "absent" | undefined;
}

const APPLICATION_NAME = "walvault status";

/** Asks a server where it is. */
export async function lookAtServer(
  settings: ConnectionSettings,
  { log, signal, slot }: {
    readonly log: Log;
    readonly signal: AbortSignal;
    readonly slot: string | undefined;
  },
): Promise<ServerLook> {
  // Under the receiver's own name we would be taken for it, by ourselves and by synchronous_standby_names.
  await using session = await connect({ ...settings, applicationName: APPLICATION_NAME }, { log, signal });
  // A server that stops to answer must not be waited for.
  const onAbort = () => void session.close();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await askSession(session, slot, signal);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

async function askSession(
  session: Session,
  slot: string | undefined,
  signal: AbortSignal,
): Promise<ServerLook> {
  let views: ReplicationViews | undefined;
  let viewsProblem: unknown;
  try {
    views = await session.replicationViews(signal);
  } catch (error) {
    // A role that may only replicate: what the replication connection tells is worth having without it.
    viewsProblem = error;
  }
  const slotRestartLsn = views === undefined && slot !== undefined
    ? await restartOf(session, slot)
    : undefined;
  // Before the position is told: it must not be older than it has to.
  const { timeline } = await session.identifySystem();
  const lineage = await lineageOf(session, timeline);
  const askedAtMs = performance.now();
  const identity = await session.identifySystem();
  return {
    address: session.address,
    serverVersion: session.serverVersion,
    systemIdentifier: identity.systemIdentifier,
    timeline: identity.timeline,
    lineage: identity.timeline === timeline ? lineage : await lineageOf(session, identity.timeline),
    flushLsn: identity.flushLsn,
    askedAtMs,
    views,
    viewsProblem,
    slotRestartLsn,
  };
}

async function restartOf(session: Session, slot: string): Promise<Lsn | "absent" | undefined> {
  // An older server tells it where it has just refused to tell the rest.
  if (!knowsReadReplicationSlot(session.serverVersion)) return undefined;
  const position = await session.readSlot(slot);
  return position === undefined ? "absent" : position.restartLsn;
}

async function lineageOf(session: Session, timeline: TimelineId): Promise<TimelineHistory | undefined> {
  if (timeline === 1) return emptyHistory(timeline);
  const bytes = await session.timelineHistory(timeline);
  return bytes === undefined ? undefined : parseHistory(timeline, bytes);
}
