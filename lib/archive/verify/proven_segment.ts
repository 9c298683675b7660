import { formatLsn } from "../../wal/lsn.ts";
import type { HeldSegment } from "./continuity.ts";
import type { Finding } from "./finding.ts";
import type { PlannedSegment } from "./plan.ts";
import type { SegmentProof, SegmentTask } from "./segment_proof.ts";

/** A file that was read, and what it proves. */
export interface ProvenFile {
  readonly task: SegmentTask;
  readonly proof: SegmentProof;
}

/** A segment, and all its files that were still there. */
export interface ProvenSegment {
  readonly segment: PlannedSegment;
  /** Those under the segment's own name first. */
  readonly files: readonly ProvenFile[];
}

/** The best file of a segment: what a restore gets. */
export interface Held extends HeldSegment, ProvenFile {}

/** Which file of a segment is the best, and what is wrong with each, and among them. */
export function judgeFiles(
  { files }: ProvenSegment,
): { readonly best: ProvenFile | undefined; readonly findings: readonly Finding[] } {
  const best = files.toSorted((a, b) => rank(b) - rank(a) || compareEnds(b, a))[0];
  const findings = files.flatMap((file) => [
    ...problemOf(file, best),
    ...behindOf(file, best),
    ...(best !== undefined && isOther(file, best) ? [otherContent(file, best)] : []),
  ]);
  if (best?.task.role === "unfinished" && best.proof.state === "complete") {
    findings.push({
      kind: "note",
      path: best.task.path,
      timeline: best.task.timeline,
      problem: "it is complete, and not yet under the segment's own name",
    });
  }
  return { best, findings };
}

/** How far a segment goes by its best file. */
export function heldOf({ timeline, number }: PlannedSegment, best: ProvenFile): Held {
  const { task, proof: { state, scan, problemLsn } } = best;
  const extents = { complete: "whole", tail: "tail", empty: "none", earlier: "none" } as const;
  const extent = state === "damaged" ? (task.role === "unfinished" ? "tail" : "whole") : extents[state];
  return { ...best, timeline, number, extent, endLsn: problemLsn ?? scan.endLsn, path: task.path };
}

function rank({ task, proof: { state } }: ProvenFile): number {
  const isOwn = task.role !== "unfinished";
  if (state === "complete") return isOwn ? 5 : 4;
  // A reader takes what has the segment's own name, and a damaged one hides what is behind it.
  if (state === "damaged") return isOwn ? 3 : 1;
  return state === "tail" ? 2 : 0;
}

function compareEnds(a: ProvenFile, b: ProvenFile): number {
  const [one, other] = [a.proof.scan.contentEndLsn, b.proof.scan.contentEndLsn];
  return one < other ? -1 : one > other ? 1 : 0;
}

function problemOf({ task, proof }: ProvenFile, best: ProvenFile | undefined): readonly Finding[] {
  const { state, problem = "", problemLsn } = proof;
  if (state !== "damaged") return [];
  const isSpare = best?.proof.state === "complete";
  return [{
    kind: isSpare && task.role === "unfinished"
      ? "note"
      : /^system identifier /.test(problem)
      ? "identity"
      : "damage",
    path: task.path,
    timeline: task.timeline,
    lsn: problemLsn,
    problem,
    ...(isSpare ? { hint: `"${best.task.path}" holds the whole segment, and is right` } : {}),
  }];
}

/** Nobody was promised it; but where no crash explains the stretch, it is a loss. */
function behindOf(
  { task, proof: { scan, behindLsn } }: ProvenFile,
  best: ProvenFile | undefined,
): readonly Finding[] {
  if (behindLsn === undefined || best?.proof.state === "complete") return [];
  return [{
    kind: "note",
    path: task.path,
    timeline: task.timeline,
    lsn: scan.endLsn,
    problem: `WAL up to ${formatLsn(behindLsn)} lies behind an empty stretch`,
    hint: "A crash leaves that where nothing was synced yet; without one, bytes were lost here",
  }];
}

function isOther({ proof }: ProvenFile, best: ProvenFile): boolean {
  return proof.state === "complete" && best.proof.state === "complete" && proof.digest !== best.proof.digest;
}

function otherContent({ task }: ProvenFile, best: ProvenFile): Finding {
  return {
    kind: "conflict",
    path: task.path,
    timeline: task.timeline,
    lsn: task.startLsn,
    problem: `it holds another segment than "${best.task.path}", and each is right by itself`,
    hint: "Two servers wrote to this timeline: find out which one belongs to this archive",
  };
}
