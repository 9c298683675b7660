import { WrongClusterError } from "../wal/errors.ts";
import { cutHistoryProblem, parseHistory } from "../wal/history.ts";
import { advance, formatLsn } from "../wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { isCompleteSegment, type SegmentScan } from "../wal/scanner.ts";
import { formatSegmentSize, parseSegmentName, segmentStart } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import {
  type Acceptance,
  type Accepted,
  BroughtFileError,
  type DamagedForm,
  IncompleteSegmentError,
  linkTemporary,
  surveyInProgress,
  withTemporary,
} from "./acceptance.ts";
import { allEnded } from "./all_ended.ts";
import { acceptText, MAXIMUM_TEXT_BYTES } from "./accept_text.ts";
import { type BroughtSegment, compareBrought, type WrittenSegment } from "./brought_segment.ts";
import { FORM_OF_FORMAT } from "./compression_format.ts";
import { compareForms, isProven, moveDamagedAside, type PublishedForms } from "./damaged_form.ts";
import { firstDifferenceInFiles, readWhole, withFile } from "./durable.ts";
import { readHistoryOf } from "./history_file.ts";
import { firstPageProblem } from "./first_page.ts";
import {
  IN_PROGRESS_DIRECTORY,
  inProgressPath,
  parseInProgressName,
  pushedPath,
  savedPath,
} from "./layout.ts";
import type { PublishedComparison } from "./published.ts";
import {
  contradictionOf,
  lookAround,
  refuseBrokenLink,
  refuseContradiction,
  refuseOtherForms,
  refusePublished,
  refuseUntied,
} from "./refuse_segment.ts";
import { countWrittenBytes, scanSegmentFile } from "./segment_file.ts";
import { isWholeAndRight, proveSegmentFile } from "./segment_proof.ts";
import { compressAndScan, writeAndScan } from "./write_brought.ts";

/**
 * Takes a segment into the archive: under its own name if it is complete (P1), else beside what is still growing.
 *
 * @throws {ArchiveConflictError} when the archive has other bytes of it, or it does not continue what is there (P4, P5).
 */
export async function acceptSegment(
  acceptance: Acceptance,
  name: { readonly segment: string; readonly partial: boolean },
): Promise<Accepted> {
  const { brought, identity } = acceptance;
  const place = parseSegmentName(name.segment, identity.segmentSize);
  if (place === undefined) {
    const size = formatSegmentSize(identity.segmentSize);
    throw new BroughtFileError(
      `Cannot archive ${brought.name}: the archive's segments are of ${size}, and none has this name`,
    );
  }
  const accepted = await withFile(brought.disk, brought.name, async (source) => {
    const startLsn = segmentStart(place.number, identity.segmentSize);
    const known = await readLineage(acceptance, place.timeline);
    const state = acceptance.options.ahead?.state ?? await source.state();
    const found = { acceptance, ...name, ...place, startLsn, ...known, source, state };
    await checkSource(found);
    const [names, forms] = await allEnded([surveyInProgress(acceptance), compareForms(found, source)]);
    const unfinished = unfinishedOf(found, await names);
    return await acceptChecked({ ...found, unfinished }, await forms);
  });
  if (accepted === undefined) throw new BroughtFileError(`Cannot archive ${brought.name}: it is not there`);
  return accepted;
}

/** The history of a timeline, from the archive or from beside the file. */
async function readLineage(
  { archive, brought }: Acceptance,
  timeline: TimelineId,
): Promise<Pick<BroughtSegment, "lineage" | "missingHistory">> {
  const unknown = { lineage: undefined, missingHistory: undefined };
  if (timeline === 1) return unknown;
  const name = historyFileName(timeline);
  const lineageHere = await readHistoryOf(archive.disk, timeline);
  if (lineageHere !== undefined) return { ...unknown, lineage: lineageHere };
  const beside = await readWhole(brought.disk, name, MAXIMUM_TEXT_BYTES);
  if (beside === undefined) return unknown;
  const lineage = parseHistory(timeline, beside);
  const isWhole = cutHistoryProblem(lineage, beside) === undefined;
  return { lineage, missingHistory: isWhole ? beside : undefined };
}

/**
 * Archives the history that lies beside a segment, when the archive has none of that timeline.
 *
 * Its server handed that over long ago, to another archive or to none, and no restore finds the way without it.
 */
async function archiveHistory({ acceptance, timeline, missingHistory }: BroughtSegment): Promise<void> {
  const { brought, options: { suffix, systemIdentifier } } = acceptance;
  // A history does not say whose it is.
  if (missingHistory === undefined || systemIdentifier === undefined) return;
  const name = historyFileName(timeline);
  const temporary = pushedPath(name, suffix);
  await acceptText({ ...acceptance, brought: { disk: brought.disk, name }, temporary }, missingHistory);
}

async function checkSource(found: Omit<BroughtSegment, "unfinished">): Promise<void> {
  const { acceptance: { brought, identity }, source, startLsn, timeline, lineage } = found;
  const bytes = await source.bytes();
  if (bytes !== Number(identity.segmentSize)) {
    throw new BroughtFileError(
      `Cannot archive ${brought.name}: it has ${bytes} bytes, want ${identity.segmentSize}, as all segments of this archive`,
    );
  }
  const first = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  await source.read(first, 0);
  const header = decodePageHeader(first);
  const ancestors = lineage?.entries.map((entry) => entry.timeline);
  const problem = header === undefined
    ? "its first page has no header"
    : firstPageProblem(header, { identity, startLsn, timeline, ancestors });
  if (problem !== undefined) {
    throw new WrongClusterError(
      `Cannot archive ${brought.name}: ${problem}; the file is not what its name says, or of another cluster`,
    );
  }
}

function unfinishedOf(
  { segment, acceptance: { identity } }: { readonly segment: string; readonly acceptance: Acceptance },
  names: readonly string[],
): readonly string[] {
  return names
    .filter((name) =>
      name.startsWith(segment) && parseInProgressName(name, identity.segmentSize) !== undefined
    )
    .map(inProgressPath);
}

async function acceptChecked(found: BroughtSegment, forms: PublishedForms): Promise<Accepted> {
  const { acceptance } = found;
  const { published, damaged } = forms;
  // The usual case where a receiver runs too: it was first.
  if (published !== undefined && published.difference === undefined) {
    const moved = await moveDamagedAside(acceptance, damaged);
    return withDamaged(await present(found, published.path), moved);
  }
  const { compression } = acceptance.options;
  // In place of a damaged form a plain one: no name is taken away and given again.
  if (compression !== undefined && !found.partial && damaged.length === 0) {
    const accepted = await withTemporary(acceptance, async (file) => {
      const scan = await compressAndScan(found, { file, compression });
      if (!isCompleteSegment(scan, scan.segmentSize)) return undefined;
      const form = FORM_OF_FORMAT[compression.format];
      return await publish({ ...found, file: found.source, scan, form }, forms);
    });
    if (accepted !== undefined) return accepted;
  }
  return await withTemporary(acceptance, async (file) => {
    const quick = await writeAndScan(found, file);
    const written = { ...found, file, form: "" } as const;
    if (acceptance.options.only === "proven") {
      return await publish({ ...written, scan: await proveWritten(written, quick) }, forms);
    }
    const isComplete = (scan: SegmentScan) => !found.partial && isCompleteSegment(scan, scan.segmentSize);
    if (isComplete(quick)) return await publish({ ...written, scan: quick }, forms);
    // Now it counts where exactly its valid WAL ends.
    const scan = await scanSegmentFile(file, quick);
    return isComplete(scan)
      ? await publish({ ...written, scan }, forms)
      : await keepUnfinished({ ...written, scan }, published);
  });
}

/** @throws {IncompleteSegmentError} when not every record holds, to the segment's end. */
async function proveWritten(
  { acceptance: { brought }, file }: Pick<WrittenSegment, "acceptance" | "file">,
  quick: SegmentScan,
): Promise<SegmentScan> {
  const scan = await proveSegmentFile(file, quick);
  if (isWholeAndRight(scan)) return scan;
  throw new IncompleteSegmentError(
    `Cannot archive ${brought.name}: its WAL is right only up to ${formatLsn(scan.contentEndLsn)}` +
      `${scan.problem === undefined ? "" : ` (${scan.problem})`}, want all of the segment`,
  );
}

/** Gives a complete segment its name. */
async function publish(
  written: WrittenSegment,
  { published, damaged }: PublishedForms,
): Promise<Accepted> {
  const { acceptance: { archive: { disk } }, segment, file, form } = written;
  const path = segment + form;
  if (published?.difference !== undefined) return await refusePublished(written, published);
  if (damaged[0] !== undefined && !await isProven(written)) throw damaged[0].error;
  // Since the look before, somebody may have been first; in any form.
  const lookAgain = () => compareBrought(written, { file });
  // Where nothing stands in the way of that look, all are taken at once; what they find counts in this order.
  const [around, early] = await allEnded([
    lookAround(written),
    damaged.length === 0 ? lookAgain() : Promise.resolve(undefined),
  ]);
  await refuseContradiction(written, await around);
  await refuseBrokenLink(written, await around);
  await refuseUntied(written, await around);
  await archiveHistory(written);
  const moved = await moveDamagedAside(written.acceptance, damaged);
  const first = await (damaged.length === 0 ? early : lookAgain());
  if (first !== undefined) return withDamaged(await settle(written, first), moved);
  if (!await linkTemporary(written.acceptance, path)) {
    const taken = await lookAgain();
    if (taken !== undefined) return withDamaged(await settle(written, taken), moved);
    throw new Error(`Cannot archive ${segment}: its name was taken, and is free again`);
  }
  await disk.syncDirectory(".");
  await refuseOtherForms(written);
  return withDamaged({ outcome: "archived", path }, moved);
}

function withDamaged(accepted: Accepted, damaged: readonly DamagedForm[]): Accepted {
  return accepted.outcome === "kept" || damaged.length === 0 ? accepted : { ...accepted, damaged };
}

async function settle(written: WrittenSegment, published: PublishedComparison): Promise<Accepted> {
  return published.difference === undefined
    ? await present(written, published.path)
    : await refusePublished(written, published);
}

/** The archive has it: whoever gave it its name may not have come to sync the directory. */
async function present({ acceptance }: BroughtSegment, path: string): Promise<Accepted> {
  const { disk } = acceptance.archive;
  await withFile(disk, path, (file) => file.sync());
  await disk.syncDirectory(path.startsWith(`${IN_PROGRESS_DIRECTORY}/`) ? IN_PROGRESS_DIRECTORY : ".");
  return { outcome: "present", path };
}

/**
 * Keeps a segment that is not complete where the rest of it grows.
 *
 * It is never refused for what it holds: the server would stop archiving at it for ever. What contradicts it is told.
 */
async function keepUnfinished(
  written: WrittenSegment,
  published: PublishedComparison | undefined,
): Promise<Accepted> {
  const { acceptance: { archive: { disk } }, segment, scan, startLsn } = written;
  const validBytes = Number(scan.endLsn - startLsn);
  if (published?.difference !== undefined && published.difference >= validBytes) {
    return await present(written, published.path);
  }
  const copy = await findCopy(written);
  if (copy !== undefined) return await present(written, copy);
  const contradiction = published?.difference === undefined
    ? await contradictionOf(written, validBytes)
    : { path: published.path, at: published.difference };
  const contradicted = contradiction === undefined
    ? undefined
    : { path: contradiction.path, differenceLsn: advance(startLsn, contradiction.at) };
  for (let count = 1;; count++) {
    const path = savedPath(segment, count);
    if (!await linkTemporary(written.acceptance, path)) continue;
    await disk.syncDirectory(IN_PROGRESS_DIRECTORY);
    return { outcome: "kept", path, validEndLsn: scan.endLsn, contradicted };
  }
}

/** A saved copy that has every byte of this one. */
async function findCopy(
  { acceptance, unfinished, file, segment }: WrittenSegment,
): Promise<string | undefined> {
  const { disk } = acceptance.archive;
  const end = await countWrittenBytes(file);
  for (const path of unfinished) {
    // The growing one may be moved aside or go on as something else.
    if (path === inProgressPath(segment)) continue;
    const has = await withFile(
      disk,
      path,
      async (saved) => await firstDifferenceInFiles(saved, file, { start: 0, end }) === undefined,
    );
    if (has === true) return path;
  }
  return undefined;
}
