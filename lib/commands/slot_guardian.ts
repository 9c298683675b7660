import type { ConnectionSettings } from "../conninfo/settings.ts";
import { type Log, messageChain } from "../log.ts";
import { keptBytes, type SlotSample } from "../observe/slot_forecast.ts";
import { type HaltLimits, SlotJudge, type SlotWarning } from "../observe/slot_judgement.ts";
import type { Lsn } from "../wal/lsn.ts";
import { ServerError } from "../protocol/errors.ts";
import type { Clock } from "../receiver/clock.ts";
import { waitFor } from "../receiver/waiting.ts";
import { connect } from "../session/connect.ts";
import type { Session } from "../session/session.ts";
import { hintOf } from "./context.ts";
import { formatBytes } from "./live_line.ts";
import { maskSecrets } from "./mask_secrets.ts";
import { lookAtServer, type ServerLook } from "./server_look.ts";
import { formatDuration } from "./status_text.ts";

/** A slot is looked at this often; more often where it may not stand still for much longer than that. */
const INTERVAL_MS = 30_000;
const LEAST_INTERVAL_MS = 1000;
/** A server that does not answer is looked at again, not waited for. */
const LOOK_TIMEOUT_MS = 20_000;
/** The server needs a moment to see that we are gone. */
const DROP_PATIENCE_MS = 20_000;
const DROP_RETRY_MS = 500;
/** For all of it: the server may be as far gone as our disk. */
const DROP_LIMIT_MS = 90_000;
/** object_in_use */
const IN_USE = "55006";

const SILENT: Log = { error() {}, warn() {}, info() {}, debug() {} };

/** What to do about a slot that holds up too much. */
export interface HaltPolicy extends HaltLimits {
  readonly action: "warn" | "drop-slot";
}

/** Watches the receiver's slot over a connection of its own, and says when the server's disk, or the slot, is in danger. */
export class SlotGuardian {
  readonly #judge: SlotJudge;
  readonly #halt = new AbortController();
  #last: SlotSample | undefined;
  #address: string | undefined;
  #problemTold = false;

  constructor(
    private readonly settings: ConnectionSettings,
    private readonly options: {
      readonly slot: string;
      readonly policy: HaltPolicy;
      readonly clock: Clock;
      readonly log: Log;
      /** How far all that was received is durable, whatever the server is told. */
      readonly durable?: (() => Lsn | undefined) | undefined;
    },
  ) {
    this.#judge = new SlotJudge(options.policy);
  }

  /** Aborts when the slot is to be dropped: whoever uses it lets go of it then, and calls `dropSlot`. */
  get halt(): AbortSignal {
    return this.#halt.signal;
  }

  /** The server that streamed last; `undefined` before one did. */
  get address(): string | undefined {
    return this.#address;
  }

  /** The server that streams; of others the slot says nothing. Before that, the only host will do. */
  streamingFrom(address: string): void {
    this.#address = address;
  }

  /** Looks, again and again, until told to stop; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { policy } = this.options;
    const intervalMs = Math.min(INTERVAL_MS, Math.max(LEAST_INTERVAL_MS, (policy.afterMs ?? Infinity) / 4));
    while (!signal.aborted && !this.#halt.signal.aborted) {
      await waitFor(intervalMs, this.options.clock, signal);
      if (!signal.aborted) await this.#look(signal);
    }
  }

  /**
   * Drops the slot, which nobody of ours uses any more.
   *
   * @param beforeDrop is told how far the slot reaches, when the right server is there and has the slot, and done before it
   * goes: what the server then throws away is missing from here on.
   * @throws what the server says, or `beforeDrop`; the slot may then still be there.
   */
  async dropSlot(
    systemIdentifier: bigint | undefined,
    beforeDrop: (last: SlotSample | undefined) => Promise<void>,
  ): Promise<void> {
    const { slot, clock } = this.options;
    const source = await connect(this.settings, {
      log: SILENT,
      signal: AbortSignal.timeout(DROP_PATIENCE_MS),
      // One of the same name on another host does no harm.
      accept: ({ address }) => Promise.resolve(this.#address === undefined || address === this.#address),
    });
    const cancel = clock.setTimer(DROP_LIMIT_MS, () => void source.close());
    try {
      await this.#checkSlot(source, systemIdentifier);
      await beforeDrop(this.#last);
      const untilMs = clock.nowMs() + DROP_PATIENCE_MS;
      for (;;) {
        try {
          return await source.dropSlot(slot);
        } catch (error) {
          const inUse = error instanceof ServerError && error.sqlState === IN_USE;
          if (!inUse || clock.nowMs() > untilMs) throw error;
        }
        await waitFor(DROP_RETRY_MS, clock);
      }
    } finally {
      cancel();
      await source.close();
    }
  }

  /** @throws when the server is another cluster's, or has no such physical slot. */
  async #checkSlot(source: Session, systemIdentifier: bigint | undefined): Promise<void> {
    const { slot } = this.options;
    const system = await source.identifySystem();
    if (systemIdentifier !== undefined && system.systemIdentifier !== systemIdentifier) {
      throw new Error(
        `${source.address} is of another cluster: its system identifier is ${system.systemIdentifier}, the archive's ${systemIdentifier}`,
      );
    }
    const position = await source.readSlot(slot);
    if (position?.kind === "physical") return;
    throw new Error(`${source.address} has no physical slot of that name`);
  }

  async #look(signal: AbortSignal): Promise<void> {
    const { slot, clock, log } = this.options;
    let look: ServerLook;
    // Before the server is asked: what comes meanwhile lies beyond the end that it tells, and is no other line of WAL.
    const durableLsn = this.options.durable?.();
    try {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(LOOK_TIMEOUT_MS)]);
      look = await lookAtServer(this.settings, { log: SILENT, signal: limited, slot });
    } catch (error) {
      // A server that can't be asked is the receiver's to report.
      if (!signal.aborted) log.debug("slot not looked at", { error: maskSecrets(messageChain(error)) });
      return;
    }
    if (look.viewsProblem !== undefined && !this.#problemTold) {
      this.#problemTold = true;
      log.warn("slot watched in part", {
        slot,
        error: maskSecrets(messageChain(look.viewsProblem)),
        hint: hintOf(look.viewsProblem),
      });
    }
    // Another host of the connection string may have another slot of that name, or none yet.
    if (this.#address === undefined ? this.settings.hosts.length > 1 : look.address !== this.#address) return;
    const sample = sampleOf(look, slot, clock.nowMs());
    if (sample === undefined) return;
    if (sample !== "absent") this.#last = sample;
    const judged = sample === "absent" ? sample : { ...sample, durableLsn };
    for (const warning of this.#judge.next(judged)) this.#say(warning);
  }

  #say(warning: SlotWarning): void {
    const { slot, log, policy } = this.options;
    const kept = this.#last === undefined ? undefined : keptBytes(this.#last);
    const fields = { slot, ...(kept === undefined ? {} : { kept: formatBytes(Number(kept)) }) };
    const safe = this.#last?.safeWalBytes;
    switch (warning.kind) {
      case "absent":
        return log.error("slot is gone", {
          slot,
          hint: "the server may throw away WAL that is not here yet: receive --create-slot makes it again",
        });
      case "unreserved":
        return log.error("slot is about to lose wal", {
          ...fields,
          hint:
            "make receiving faster, or raise max_slot_wal_keep_size on the server, before its next checkpoint",
        });
      case "lost":
        return log.error("slot has lost wal", {
          ...fields,
          hint:
            "make it anew: walvault receive --drop-slot, then receive --create-slot; walvault status tells of holes",
        });
      case "limit near":
        return log.warn("slot nears its limit", {
          ...fields,
          ...(safe === undefined ? {} : { left: formatBytes(Number(safe)) }),
          timeLeft: formatDuration(warning.limitMs),
          hint: "what the server keeps for it grows: make receiving faster, or raise max_slot_wal_keep_size",
        });
      case "held back":
        return log.error("slot is held back", {
          ...fields,
          hint:
            "what the server keeps for it is durable here, and a gap before it keeps that from being told, so it fills " +
            "the server's disk: bring what is missing (walvault gap heal), or give it up (walvault gap accept); see: walvault gap list",
        });
      case "halt":
        log.error("slot holds up too much wal", {
          ...fields,
          action: policy.action,
          hint: policy.action === "drop-slot"
            ? "receiving stops, and the slot is dropped: the server's disk is worth more"
            : "receive again, or give the slot up: walvault receive --drop-slot",
        });
        if (policy.action === "drop-slot") this.#halt.abort(new Error("The slot holds up too much WAL"));
    }
  }
}

function sampleOf(
  { views, flushLsn: serverLsn, slotRestartLsn }: ServerLook,
  slot: string,
  atMs: number,
): SlotSample | "absent" | undefined {
  const view = views?.slots.find(({ name }) => name === slot);
  if (view !== undefined) {
    const { restartLsn, walStatus, safeWalBytes } = view;
    return { atMs, serverLsn, restartLsn, walStatus, safeWalBytes };
  }
  if (views !== undefined || slotRestartLsn === "absent") return "absent";
  if (slotRestartLsn === undefined) return undefined;
  return { atMs, serverLsn, restartLsn: slotRestartLsn, walStatus: undefined, safeWalBytes: undefined };
}
