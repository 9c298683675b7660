import type { Finding } from "./finding.ts";
import type { ProvenFile } from "./proven_segment.ts";
import type { Joins } from "./segment_chain.ts";
import type { IndexProof, SegmentProof, SegmentTask } from "./segment_proof.ts";

/** A segment whose index is missing, or is of other bytes: all that is needed when the joins are known. */
export interface DueIndex {
  readonly task: SegmentTask;
  readonly index: IndexProof;
  readonly scan: Pick<SegmentProof["scan"], "startLsn" | "openRecordLsn">;
  readonly contentCrc: number;
}

/** What is to be done about the index of a file; `undefined`: nothing. */
export function dueIndexOf({ task, proof: { index, scan, digest } }: ProvenFile): DueIndex | undefined {
  if (digest === undefined) return undefined;
  const { startLsn, openRecordLsn } = scan;
  return { task, index, scan: { startLsn, openRecordLsn }, contentCrc: digest };
}

/**
 * Whether an index can be made of the bytes that are there: whoever finds it believes them, the shared records too.
 *
 * A first one need not know more than the segment itself; one that is there gives way only to what is proven.
 */
export function mayMakeIndex({ index }: DueIndex, joins: Joins | undefined): boolean {
  if (joins?.isBroken === true) return false;
  return index.state !== "stale" || unprovenSides(index, joins).length === 0;
}

function unprovenSides(
  { before, behind }: IndexProof & { readonly state: "stale" },
  joins: Joins | undefined,
): readonly ("before" | "behind")[] {
  const sides: ("before" | "behind")[] = [];
  if (before && joins?.before !== true) sides.push("before");
  if (behind && joins?.behind !== true) sides.push("behind");
  return sides;
}

/** What a stale index shows; `made`: there is a right one now. */
export function staleIndexFinding(
  { task, index, scan }: DueIndex,
  joins: Joins | undefined,
  { made }: { readonly made: boolean },
): Finding | undefined {
  if (index.state !== "stale") return undefined;
  const { path, timeline } = task;
  const sides = unprovenSides(index, joins);
  if (joins?.isBroken !== true && sides.length === 0) {
    return {
      kind: "note",
      path,
      timeline,
      problem: `its index ${made ? "was of other bytes, and is made anew" : "is of other bytes"}: ` +
        "every record is right, but bytes that no record has may have changed",
    };
  }
  const why = joins?.isBroken === true
    ? "it does not join its neighbour"
    : `nothing here proves the record that it shares with the segment ${sides.join(" and with the one ")}`;
  return {
    kind: "damage",
    path,
    timeline,
    lsn: sides.includes("before") || scan.openRecordLsn === undefined ? scan.startLsn : scan.openRecordLsn,
    problem: `other bytes than when its index was made, and ${why}`,
    hint: `Compare it with another copy; if it was exchanged on purpose, remove "index/${
      path.slice(0, 24)
    }.idx"`,
  };
}
