import type { Clock } from "../receiver/clock.ts";
import type { Output } from "./context.ts";
import { formatBytes } from "./live_line.ts";

/** Not more often than a person reads. */
const INTERVAL_MS = 250;
/** The rate is that of the last seconds: files differ, and so do disks and caches. */
const WINDOW_MS = 5000;
const BAR_CELLS = 24;

/** How much of the work is done. */
export interface WorkDone {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

interface Sample extends WorkDone {
  readonly atMs: number;
}

/** One line at the bottom of a terminal with a bar, the rate and the time left; nothing elsewhere. */
export class ProgressLine {
  readonly #enabled: boolean;
  #shown = false;
  #samples: Sample[] = [];

  constructor(
    private readonly output: Output,
    private readonly clock: Clock,
    options: { readonly enabled: boolean },
  ) {
    this.#enabled = options.enabled && output.isTerminal;
  }

  /** Redraws the line, if it is time. */
  show(work: WorkDone): void {
    if (!this.#enabled) return;
    const atMs = this.clock.nowMs();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < INTERVAL_MS) return;
    this.#samples.push({ ...work, atMs });
    while (this.#samples.length > 2 && atMs - this.#samples[1]!.atMs >= WINDOW_MS) this.#samples.shift();
    this.output.write("\r\x1b[K" + formatProgress(work, rateOf(this.#samples)));
    this.#shown = true;
  }

  /** Takes the line away. */
  clear(): void {
    if (this.#shown) this.output.write("\r\x1b[K");
    this.#shown = false;
  }
}

function rateOf(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || last.atMs <= first.atMs) return 0;
  return (last.doneBytes - first.doneBytes) / (last.atMs - first.atMs) * 1000;
}

/** `[#####-------------------]  21 % | 2.1 GB of 9.8 GB | 512 MB/s | 15 s left`. */
export function formatProgress({ doneBytes, totalBytes }: WorkDone, bytesPerSecond: number): string {
  const share = totalBytes === 0 ? 1 : doneBytes / totalBytes;
  const filled = Math.floor(share * BAR_CELLS);
  const bar = "#".repeat(filled) + "-".repeat(BAR_CELLS - filled);
  const parts = [
    `[${bar}] ${String(Math.floor(share * 100)).padStart(3)} %`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
  ];
  if (bytesPerSecond > 0) {
    parts.push(`${formatBytes(bytesPerSecond)}/s`);
    parts.push(`${formatDuration((totalBytes - doneBytes) / bytesPerSecond)} left`);
  }
  return parts.join(" | ");
}

/** `15 s`, `3 min 20 s`, `2 h 5 min`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
}
