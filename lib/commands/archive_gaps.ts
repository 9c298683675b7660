import type { Archive, ArchiveContents } from "../archive/archive.ts";
import { readLedger } from "../archive/gap_ledger_file.ts";
import {
  allGaps,
  EMPTY_LEDGER,
  type Gap,
  type GapLedger,
  type GapRecord,
  healedGaps,
  segmentsOfGap,
} from "../archive/gaps.ts";
import { parseHistory } from "../wal/history.ts";
import { holeBetween } from "../observe/lineage_cover.ts";
import { onLineage } from "../wal/lineage.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { ArchiveSurvey, LineageSurvey } from "./archive_survey.ts";

/** What is missing in an archive, and what was. */
export interface ArchiveGaps {
  readonly segmentSize: SegmentSize;
  /** On all timelines. */
  readonly gaps: readonly Gap[];
  /** Recorded once, and all here again. */
  readonly healed: readonly GapRecord[];
  readonly ledger: GapLedger;
}

/** Takes stock of what is missing in an archive. */
export async function findGaps(archive: Archive): Promise<ArchiveGaps> {
  const { identity } = archive;
  if (identity === undefined) throw new Error("Cannot look for gaps: the archive is not made yet");
  return gapsIn(await archive.contents(), await archive.ledger(), identity.segmentSize);
}

function gapsIn(contents: ArchiveContents, ledger: GapLedger, segmentSize: SegmentSize): ArchiveGaps {
  const histories = contents.histories.map(({ timeline, bytes }) => parseHistory(timeline, bytes));
  return {
    segmentSize,
    gaps: allGaps({ contents, histories, ledger, segmentSize }),
    healed: healedGaps({ contents, ledger, segmentSize }),
    ledger,
  };
}

/** As `findGaps`, of an archive that is only looked at. */
export async function gapsOfSurvey(
  { directory, runs, unfinished, histories, segmentSize }: Pick<
    ArchiveSurvey,
    "directory" | "runs" | "unfinished" | "histories" | "segmentSize"
  >,
): Promise<readonly Gap[]> {
  const ledger = await readLedger(directory.disk) ?? EMPTY_LEDGER;
  return allGaps({ contents: { runs, unfinished }, histories, ledger, segmentSize });
}

/**
 * The same lineage with the holes between what was only begun and its first complete segment: of these only the gaps
 * tell, which know what is left over from before older segments were removed.
 */
export function withHolesBefore(
  lineage: LineageSurvey,
  gaps: readonly Gap[],
  segmentSize: SegmentSize,
): LineageSurvey {
  const begin = lineage.stretches[0]?.firstNumber;
  if (begin === undefined) return lineage;
  const missing = gaps.filter(({ state }) => state === "unrecorded").map((gap) =>
    segmentsOfGap(gap, segmentSize)
  );
  const before = onLineage(missing, { lineage: lineage.lineage, segmentSize })
    .filter(({ endNumber }) => endNumber <= begin)
    .map(({ firstNumber: startNumber, endNumber }) =>
      holeBetween({ startNumber, endNumber }, lineage.lineage, segmentSize)
    );
  return { ...lineage, holes: [...before, ...lineage.holes] };
}

/** True for what somebody has to bring, whether it is written down or not. */
export function isMissing(gap: Pick<Gap, "state">): boolean {
  return isOpen(gap) && gap.state !== "unproven";
}

/** True for what nobody gave up, whether it is written down or not; also for what is here by name only. */
export function isOpen({ state }: Pick<Gap, "state">): boolean {
  return state !== "accepted";
}
