import type { Log, LogFields } from "../log.ts";
import type { Clock } from "../receiver/clock.ts";
import type { LegPosition } from "../receiver/leg.ts";
import { bytesBetween, formatLsn } from "../wal/lsn.ts";
import { segmentName, segmentNumberAt } from "../wal/segment.ts";
import type { Output } from "./context.ts";

/** Not more often than a person reads. */
const INTERVAL_MS = 1000;

/** One line at the bottom of a terminal that tells where receiving is; nothing elsewhere. */
export class LiveLine {
  readonly #enabled: boolean;
  #shown = false;
  #last: { readonly atMs: number; readonly position: LegPosition } | undefined;

  constructor(
    private readonly output: Output,
    private readonly clock: Clock,
    options: { readonly enabled: boolean },
  ) {
    this.#enabled = options.enabled && output.isTerminal;
  }

  /** Redraws the line, if a second has passed since it was drawn. */
  show(position: LegPosition): void {
    if (!this.#enabled) return;
    const atMs = this.clock.nowMs();
    const last = this.#last;
    if (last !== undefined && atMs - last.atMs < INTERVAL_MS) return;
    const elapsedMs = last === undefined ? 0 : atMs - last.atMs;
    this.#last = { atMs, position };
    this.output.write("\r\x1b[K" + formatLiveLine(position, rate(last?.position, position, elapsedMs)));
    this.#shown = true;
  }

  /** Takes the line away. */
  clear(): void {
    if (this.#shown) this.output.write("\r\x1b[K");
    this.#shown = false;
  }

  /** A log whose lines go above this one. */
  above(log: Log): Log {
    const clearThen =
      (write: (event: string, fields?: LogFields) => void) => (event: string, fields?: LogFields) => {
        this.clear();
        write(event, fields);
      };
    return {
      error: clearThen(log.error),
      warn: clearThen(log.warn),
      info: clearThen(log.info),
      debug: clearThen(log.debug),
    };
  }
}

function rate(before: LegPosition | undefined, now: LegPosition, elapsedMs: number): number {
  if (before === undefined || before.timeline !== now.timeline || elapsedMs <= 0) return 0;
  const bytes = Number(bytesBetween({ startLsn: before.receivedLsn, endLsn: now.receivedLsn }));
  return Math.max(0, bytes) / elapsedMs * 1000;
}

/** `0/5A3F2B18 in 00000001000000000000005A | 12.3 MB/s | behind 1.2 MB | not yet safe 0 B`. */
export function formatLiveLine(position: LegPosition, bytesPerSecond: number): string {
  const { receivedLsn, flushLsn, serverLsn, timeline, segmentSize } = position;
  const segment = segmentName(timeline, segmentNumberAt(receivedLsn, segmentSize), segmentSize);
  const behind = Number(bytesBetween({ startLsn: receivedLsn, endLsn: serverLsn }));
  const unsafe = Number(bytesBetween({ startLsn: flushLsn, endLsn: receivedLsn }));
  return [
    `${formatLsn(receivedLsn)} in ${segment}`,
    `${formatBytes(bytesPerSecond)}/s`,
    `behind ${formatBytes(Math.max(0, behind))}`,
    `not yet safe ${formatBytes(unsafe)}`,
  ].join(" | ");
}

const UNITS = ["B", "kB", "MB", "GB", "TB"] as const;

/** Three digits at most, in powers of 1000: `12.3 MB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}
