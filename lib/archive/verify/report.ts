import { advance, type Lsn, maxLsn, minLsn } from "../../wal/lsn.ts";
import { segmentStart } from "../../wal/segment.ts";
import type { TimelineId } from "../../wal/timeline.ts";
import type { HeldSegment } from "./continuity.ts";
import { type Finding, isProblem } from "./finding.ts";
import type { Origin } from "./origin.ts";
import type { DirectoryLayout } from "./plan.ts";
import type { ProvenSegment } from "./proven_segment.ts";

/** More findings are counted, but not told one by one. */
export const MAXIMUM_FINDINGS = 1000;

/** WAL without a break that recovery can read through. */
export interface UsableRange {
  readonly timeline: TimelineId;
  /** The first record; where it goes on from a range before, the segment's first byte. */
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** It goes on from a range of the timeline that this one came from. */
  readonly continues: boolean;
}

/** What a directory holds of a timeline. */
export interface TimelineReport {
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly segments: number;
}

/** What was found in a directory of WAL. */
export interface VerifyReport {
  readonly layout: DirectoryLayout;
  /** `undefined` when nothing tells whose WAL it is: then none of it could be looked at. */
  readonly origin: Origin | undefined;
  readonly majorVersion: number | undefined;
  readonly timelines: readonly TimelineReport[];
  readonly usable: readonly UsableRange[];
  /** At most `MAXIMUM_FINDINGS`. */
  readonly findings: readonly Finding[];
  readonly problemCount: number;
  readonly segments: number;
  readonly files: number;
  readonly records: number;
  /** Of WAL that was read. */
  readonly bytes: number;
}

/** Counts what is found. */
export class VerifyTally {
  readonly #findings: Finding[] = [];
  #problemCount = 0;
  #majorVersion: number | undefined;
  #segments = 0;
  #files = 0;
  #records = 0;
  #bytes = 0;
  readonly #paths = new Set<string>();

  constructor(
    private readonly directory: { readonly layout: DirectoryLayout; readonly origin: Origin | undefined },
  ) {}

  get findings(): readonly Finding[] {
    return this.#findings;
  }

  add(...findings: readonly Finding[]): void {
    for (const finding of findings) {
      if (isProblem(finding)) this.#problemCount++;
      if (this.#findings.length < MAXIMUM_FINDINGS) this.#findings.push(finding);
    }
  }

  count({ files }: ProvenSegment): void {
    if (files.length > 0) this.#segments++;
    for (const { task, proof } of files) {
      this.#files++;
      this.#bytes += proof.bytes;
      this.#paths.add(task.path);
      this.#majorVersion ??= proof.scan.firstPage?.majorVersion;
    }
    this.#records += Math.max(0, ...files.map(({ proof }) => proof.scan.recordCount));
  }

  /** Whether a file was read. */
  hasSeen(path: string): boolean {
    return this.#paths.has(path);
  }

  report(held: readonly HeldSegment[], usable: readonly UsableRange[]): VerifyReport {
    const { layout, origin } = this.directory;
    return {
      layout,
      origin,
      majorVersion: this.#majorVersion,
      timelines: timelinesOf(held, origin),
      usable,
      findings: this.#findings,
      problemCount: this.#problemCount,
      segments: this.#segments,
      files: this.#files,
      records: this.#records,
      bytes: this.#bytes,
    };
  }
}

function timelinesOf(held: readonly HeldSegment[], origin: Origin | undefined): readonly TimelineReport[] {
  if (origin === undefined) return [];
  const { segmentSize } = origin;
  const reports = new Map<TimelineId, TimelineReport>();
  for (const { timeline, number, extent, endLsn } of held) {
    if (extent === "none") continue;
    const startLsn = segmentStart(number, segmentSize);
    const end = extent === "whole" ? advance(startLsn, segmentSize) : endLsn;
    const known = reports.get(timeline) ?? { timeline, startLsn, endLsn: end, segments: 0 };
    reports.set(timeline, {
      timeline,
      startLsn: minLsn(known.startLsn, startLsn),
      endLsn: maxLsn(known.endLsn, end),
      segments: known.segments + 1,
    });
  }
  return [...reports.values()];
}
