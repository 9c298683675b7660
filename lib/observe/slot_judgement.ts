import { awaitedBytes, forecastLimitMs, keptBytes, type SlotSample } from "./slot_forecast.ts";

/**
 * From when on a slot holds up too much of its server's disk; each limit that is given must be passed.
 *
 * What is durable at the receiver counts, not where the slot stands: a receiver that is well and may not tell what it has,
 * since WAL before it is missing, would lose its slot for that.
 */
export interface HaltLimits {
  /** The server keeps more than this for the slot that is not durable at the receiver. */
  readonly lagBytes: bigint | undefined;
  /** Nothing has become durable for this long, and the server keeps something for it. */
  readonly afterMs: number | undefined;
}

/**
 * What there is to say of a slot; each once, until it has got better. With `held back` it would be dropped if the receiver
 * had not what the server keeps.
 */
export type SlotWarning =
  | { readonly kind: "absent" | "unreserved" | "lost" | "halt" | "held back" }
  | { readonly kind: "limit near"; readonly limitMs: number };

/** With less than this to the limit there is something to say, and with more than twice as much no more. */
export const LIMIT_NEAR_MS = 3_600_000;
/** Ten minutes of samples that are seconds apart. */
const MAXIMUM_SAMPLES = 600;

/** Judges a slot by one sample after the other; pure but for what it remembers of them. */
export class SlotJudge {
  #samples: SlotSample[] = [];
  readonly #told = new Set<SlotWarning["kind"]>();
  readonly #received: Standstill;
  readonly #slot: Standstill;

  constructor(limits: HaltLimits) {
    this.#received = new Standstill(limits);
    this.#slot = new Standstill(limits);
  }

  /** Of the last sample, in milliseconds; see `forecastLimitMs`. */
  get limitMs(): number | undefined {
    return forecastLimitMs(this.#samples);
  }

  /** What the sample has to say; "absent": the server has no such slot. */
  next(sample: SlotSample | "absent"): readonly SlotWarning[] {
    if (sample === "absent") {
      this.#samples = [];
      this.#received.forget();
      this.#slot.forget();
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
    const { atMs, restartLsn, durableLsn } = sample;
    const awaited = awaitedBytes(sample) ?? 0n;
    const isDue = this.#received.isDue({ atMs, place: `${restartLsn} ${durableLsn}`, bytes: awaited });
    const isHeld = this.#slot.isDue({ atMs, place: `${restartLsn}`, bytes: keptBytes(sample) ?? 0n });
    if (!isDue) this.#told.delete("halt");
    if (!isHeld || isDue) this.#told.delete("held back");
    if (isDue) return this.#tell({ kind: "halt" });
    return isHeld ? this.#tell({ kind: "held back" }) : [];
  }

  #tell(warning: SlotWarning): readonly SlotWarning[] {
    if (this.#told.has(warning.kind)) return [];
    this.#told.add(warning.kind);
    return [warning];
  }
}

/** Whether something stands still for too long, too far behind. */
class Standstill {
  #moved: { readonly place: string; readonly atMs: number } | undefined;

  constructor(private readonly limits: HaltLimits) {}

  forget(): void {
    this.#moved = undefined;
  }

  isDue(
    { atMs, place, bytes }: { readonly atMs: number; readonly place: string; readonly bytes: bigint },
  ): boolean {
    const { lagBytes, afterMs } = this.limits;
    if (this.#moved === undefined || this.#moved.place !== place || bytes === 0n) {
      this.#moved = { place, atMs };
    }
    const isFar = lagBytes !== undefined && bytes > lagBytes;
    const isStuck = afterMs !== undefined && atMs - this.#moved.atMs >= afterMs;
    return (isFar || lagBytes === undefined) && (isStuck || afterMs === undefined) && (isFar || isStuck);
  }
}
