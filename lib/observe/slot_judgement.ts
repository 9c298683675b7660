import type { Lsn } from "../wal/lsn.ts";
import { forecastLimitMs, keptBytes, type SlotSample } from "./slot_forecast.ts";

/** From when on a slot holds up too much of its server's disk; each limit that is given must be passed. */
export interface HaltLimits {
  /** The server keeps more than this for the slot. */
  readonly lagBytes: bigint | undefined;
  /** The slot has not moved for this long, and the server keeps something for it. */
  readonly afterMs: number | undefined;
}

/** What there is to say of a slot; each once, until it has got better. */
export type SlotWarning =
  | { readonly kind: "absent" | "unreserved" | "lost" | "halt" }
  | { readonly kind: "limit near"; readonly limitMs: number };

/** With less than this to the limit there is something to say, and with more than twice as much no more. */
export const LIMIT_NEAR_MS = 3_600_000;
/** Ten minutes of samples that are seconds apart. */
const MAXIMUM_SAMPLES = 600;

/** Judges a slot by one sample after the other; pure but for what it remembers of them. */
export class SlotJudge {
  #samples: SlotSample[] = [];
  readonly #told = new Set<SlotWarning["kind"]>();
  #moved: { readonly restartLsn: Lsn | undefined; readonly atMs: number } | undefined;

  constructor(private readonly limits: HaltLimits) {}

  /** Of the last sample, in milliseconds; see `forecastLimitMs`. */
  get limitMs(): number | undefined {
    return forecastLimitMs(this.#samples);
  }

  /** What the sample has to say; "absent": the server has no such slot. */
  next(sample: SlotSample | "absent"): readonly SlotWarning[] {
    if (sample === "absent") {
      this.#samples = [];
      this.#moved = undefined;
      return this.#tell({ kind: "absent" });
    }
    this.#told.delete("absent");
    this.#samples = [...this.#samples, sample].slice(-MAXIMUM_SAMPLES);
    const { walStatus } = sample;
    for (const kind of ["unreserved", "lost"] as const) if (walStatus !== kind) this.#told.delete(kind);
    return [
      ...(walStatus === "unreserved" || walStatus === "lost" ? this.#tell({ kind: walStatus }) : []),
      ...this.#limitNear(),
      ...this.#halt(sample),
    ];
  }

  #limitNear(): readonly SlotWarning[] {
    const { limitMs } = this;
    if (limitMs === undefined || limitMs > 2 * LIMIT_NEAR_MS) this.#told.delete("limit near");
    if (limitMs === undefined || limitMs >= LIMIT_NEAR_MS) return [];
    return this.#tell({ kind: "limit near", limitMs });
  }

  #halt(sample: SlotSample): readonly SlotWarning[] {
    const { lagBytes, afterMs } = this.limits;
    const kept = keptBytes(sample) ?? 0n;
    const { restartLsn, atMs } = sample;
    if (this.#moved === undefined || this.#moved.restartLsn !== restartLsn || kept === 0n) {
      this.#moved = { restartLsn, atMs };
    }
    const isFar = lagBytes !== undefined && kept > lagBytes;
    const isStuck = afterMs !== undefined && atMs - this.#moved.atMs >= afterMs;
    const isDue = (isFar || lagBytes === undefined) && (isStuck || afterMs === undefined) &&
      (isFar || isStuck);
    if (isDue) return this.#tell({ kind: "halt" });
    this.#told.delete("halt");
    return [];
  }

  #tell(warning: SlotWarning): readonly SlotWarning[] {
    if (this.#told.has(warning.kind)) return [];
    this.#told.add(warning.kind);
    return [warning];
  }
}
