import { type Log, messageChain } from "../log.ts";
import { ConnectionError } from "../protocol/errors.ts";
import type { SlotPosition, SystemIdentity } from "../protocol/replication.ts";
import type { ServerRole } from "../protocol/replication_views.ts";
import type { Clock } from "./clock.ts";
import { StopTimeout, withinStop } from "./stopping.ts";

/** A server has this long to say whether it has a slot, and to drop it. */
export const DROP_ELSEWHERE_MS = 20_000;

/** A server that may have a slot. */
export interface SlotHolder {
  identifySystem(): Promise<SystemIdentity>;
  readSlot(name: string): Promise<SlotPosition | undefined>;
  dropSlot(name: string): Promise<void>;
  close(): Promise<void>;
}

/** A host of the connection string. */
export interface SlotHolderHost {
  /** For messages. */
  readonly name: string;
  /** Whatever it is just now. */
  connect(signal: AbortSignal): Promise<SlotHolder>;
  /** Throws a `ConnectionError` `unsuitable` when it is no standby. */
  connectToStandby(signal: AbortSignal): Promise<SlotHolder>;
}

/** Of what to look after slots beside the one that a stream uses. */
export interface SlotsElsewhere {
  /** All but the one whose slot was seen to. */
  readonly hosts: readonly SlotHolderHost[];
  readonly slot: string;
  /** Another cluster's slots are not ours. */
  readonly systemIdentifier: bigint;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Drops a slot on every standby, where it would keep WAL for ever.
 *
 * What is left, and how to drop it by hand, is told host by host; returns the names of these hosts.
 */
export function dropElsewhere(elsewhere: SlotsElsewhere): Promise<readonly string[]> {
  return onEach(elsewhere, async (holder) => {
    const { slot, log } = elsewhere;
    // Whoever is promoted in a failover goes on with it.
    if (holder.role === "primary") throw new Error("it is the primary");
    await holder.server.dropSlot(slot);
    log.info("slot dropped", { slot, server: holder.name });
    return undefined;
  }, (host, error) => {
    elsewhere.log.error("slot may be left", {
      slot: elsewhere.slot,
      server: host.name,
      error: messageChain(error),
      hint: `it would keep WAL for ever; run there: ${dropStatement(elsewhere.slot)}`,
    });
    return host.name;
  });
}

/** Tells on which other servers a slot of that name is; who can't be asked is not told of. Returns their names. */
export function tellElsewhere(elsewhere: SlotsElsewhere): Promise<readonly string[]> {
  return onEach(elsewhere, ({ name, role }) => {
    const byOption = role === "standby"
      ? "to drop it too, add --slot-on-standbys to --drop-slot, or"
      : "if it is to go,";
    elsewhere.log.warn(`slot is left on ${role}`, {
      slot: elsewhere.slot,
      server: name,
      hint: `it keeps WAL there; ${byOption} run there: ${dropStatement(elsewhere.slot)}`,
    });
    return Promise.resolve(name);
  }, () => undefined);
}

/** Harmless where there is none. */
function dropStatement(slot: string): string {
  return `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${slot}'`;
}

/** Asks all hosts at once, and calls `act` for those that are of the cluster and have the physical slot. */
async function onEach(
  { hosts, slot, systemIdentifier, clock }: SlotsElsewhere,
  act: (
    holder: { readonly name: string; readonly role: ServerRole; readonly server: SlotHolder },
  ) => Promise<string | undefined>,
  onError: (host: SlotHolderHost, error: unknown) => string | undefined,
): Promise<readonly string[]> {
  const left = await Promise.all(hosts.map(async (host) => {
    const late = new AbortController();
    let server: SlotHolder | undefined;
    const ask = async () => {
      let role: ServerRole = "standby";
      try {
        server = await host.connectToStandby(late.signal);
      } catch (error) {
        if (!(error instanceof ConnectionError) || error.kind !== "unsuitable") throw error;
        role = "primary";
        server = await host.connect(late.signal);
      }
      if ((await server.identifySystem()).systemIdentifier !== systemIdentifier) return undefined;
      if ((await server.readSlot(slot))?.kind !== "physical") return undefined;
      // Who asked has given up.
      late.signal.throwIfAborted();
      return await act({ name: host.name, role, server });
    };
    try {
      return await withinStop(ask(), { clock, timeoutMs: DROP_ELSEWHERE_MS }, AbortSignal.abort());
    } catch (error) {
      const isSilent = late.signal.aborted || error instanceof StopTimeout;
      return onError(host, isSilent ? new Error(`no answer in ${DROP_ELSEWHERE_MS / 1000} s`) : error);
    } finally {
      late.abort();
      await server?.close();
    }
  }));
  return left.filter((name) => name !== undefined);
}
