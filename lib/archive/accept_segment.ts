import { ArchiveConflictError, WrongClusterError } from "../wal/errors.ts";
import { parseHistory, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { isCompleteSegment, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { formatSegmentSize, parseSegmentName, type SegmentNumber, segmentStart } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import {
  type Acceptance,
  type Accepted,
  BroughtFileError,
  dropTemporary,
  linkTemporary,
  surveyInProgress,
} from "./acceptance.ts";
import { MAXIMUM_TEXT_BYTES } from "./accept_text.ts";
import { type BackLink, checkBackLink, isContinuedByArchive, type LinkedSegment } from "./back_link.ts";
import { keepConflict } from "./conflict.ts";
import { type Contradiction, findContradiction } from "./contradiction.ts";
import type { DiskFile } from "./disk.ts";
import { firstDifferenceInFiles, readWhole, withFile } from "./durable.ts";
import { firstPageProblem } from "./first_page.ts";
import { IN_PROGRESS_DIRECTORY, inProgressPath, parseInProgressName, savedPath } from "./layout.ts";
import { withPublished } from "./published.ts";
import { bytesOfFile, differenceOf, type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";
import { explainConflict, recordStartAt, seeRecord } from "./segment_conflict.ts";
import { countWrittenBytes } from "./segment_file.ts";

/** A segment on its way into the archive. */
interface BroughtSegment {
  readonly acceptance: Acceptance;
  /** The name of the segment, without what tells that it is a partial one. */
  readonly segment: string;
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly startLsn: Lsn;
  readonly lineage: TimelineHistory | undefined;
  /** A server calls it partial: it never gets its own name, whatever it holds. */
  readonly partial: boolean;
  readonly source: DiskFile;
  /** What `inprogress/` has of this segment. */
  readonly unfinished: readonly string[];
}

/** A segment written under its temporary name, and synced. */
interface WrittenSegment extends BroughtSegment {
  readonly file: DiskFile;
  readonly scan: SegmentScan;
}

/** The published segment of the same name, beside the one that was brought. */
interface Comparison {
  readonly path: string;
  /** Offset of the first byte that differs. */
  readonly difference: number | undefined;
}

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
    const lineage = await readLineage(acceptance, place.timeline);
    const found = { acceptance, ...name, ...place, startLsn, lineage, source };
    await checkSource(found);
    const unfinished = unfinishedOf(found, await surveyInProgress(acceptance));
    return await acceptChecked({ ...found, unfinished });
  });
  if (accepted === undefined) throw new BroughtFileError(`Cannot archive ${brought.name}: it is not there`);
  return accepted;
}

/** The history of a timeline, from the archive or from beside the file. */
async function readLineage(
  { archive, brought }: Acceptance,
  timeline: TimelineId,
): Promise<TimelineHistory | undefined> {
  if (timeline === 1) return undefined;
  const name = historyFileName(timeline);
  const bytes = await readWhole(archive.disk, name, MAXIMUM_TEXT_BYTES) ??
    await readWhole(brought.disk, name, MAXIMUM_TEXT_BYTES);
  return bytes === undefined ? undefined : parseHistory(timeline, bytes);
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

async function acceptChecked(found: BroughtSegment): Promise<Accepted> {
  const { acceptance } = found;
  // The usual case where a receiver runs too: it was first.
  const published = await compareWithPublished(found, found.source);
  if (published !== undefined && published.difference === undefined) {
    return await present(found, published.path);
  }
  try {
    const file = await acceptance.archive.disk.create(acceptance.temporary, acceptance.archive.modes.file);
    try {
      const scan = await writeAndScan(found, file);
      const written: WrittenSegment = { ...found, file, scan };
      return !found.partial && isCompleteSegment(scan, scan.segmentSize)
        ? await publish(written, published)
        : await keepUnfinished(written, published);
    } finally {
      await file.close();
    }
  } finally {
    await dropTemporary(acceptance);
  }
}

/** Reads the file once: while a piece is on its way to the disk, the records in it are looked at. */
async function writeAndScan(found: BroughtSegment, file: DiskFile): Promise<SegmentScan> {
  const { acceptance: { identity, brought, options: { pieces } }, startLsn, source } = found;
  const { segmentSize } = identity;
  const scanner = new SegmentScanner({ startLsn, segmentSize });
  const writes: Promise<void>[] = [];
  let position = 0;
  for (let turn = 0; position < segmentSize; turn++) {
    await writes[turn - pieces.length];
    const piece = pieces[turn % pieces.length]!;
    const count = await source.read(
      piece.subarray(0, Math.min(piece.length, segmentSize - position)),
      position,
    );
    if (count === 0) break;
    const bytes = piece.subarray(0, count);
    const isLast = position + count === Number(segmentSize);
    const written = file.write(bytes, position);
    writes.push(isLast ? Promise.all([written, file.sync()]).then(() => {}) : written);
    // One that fails is awaited later, and until then it is nobody's loss.
    writes.at(-1)?.catch(() => {});
    scanner.push(bytes);
    position += count;
  }
  await Promise.all(writes);
  if (position < segmentSize) {
    throw new BroughtFileError(
      `Cannot archive ${brought.name}: it was cut to ${position} bytes while it was read`,
    );
  }
  return scanner.result();
}

/** Gives a complete segment its name. */
async function publish(written: WrittenSegment, published: Comparison | undefined): Promise<Accepted> {
  const { acceptance: { archive: { disk } }, segment, file } = written;
  if (published?.difference !== undefined) return await refusePublished(written, published);
  await refuseContradiction(written);
  await refuseBrokenLink(written);
  // Since the look before, somebody may have been first; in any form.
  const first = await compareWithPublished(written, file);
  if (first !== undefined) return await settle(written, first);
  if (!await linkTemporary(written.acceptance, segment)) {
    const taken = await compareWithPublished(written, file);
    if (taken !== undefined) return await settle(written, taken);
    throw new Error(`Cannot archive ${segment}: its name was taken, and is free again`);
  }
  await disk.syncDirectory(".");
  return { outcome: "archived", path: segment };
}

async function settle(written: WrittenSegment, published: Comparison): Promise<Accepted> {
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

async function compareWithPublished(
  { acceptance, segment }: BroughtSegment,
  own: DiskFile,
): Promise<Comparison | undefined> {
  const { archive: { disk }, identity: { segmentSize } } = acceptance;
  return await withPublished(disk, { name: segment, segmentSize }, async ({ path, readThrough }) => {
    const { difference, bytes } = await differenceOf(readThrough, own);
    const atEnd = bytes === Number(segmentSize) ? undefined : Math.min(bytes, segmentSize);
    return { path, difference: difference ?? atEnd };
  });
}

async function refuseContradiction(written: WrittenSegment): Promise<void> {
  const contradiction = await contradictionOf(written, Number(written.scan.segmentSize));
  if (contradiction === undefined) return;
  const { acceptance: { archive: { disk } }, startLsn, segment } = written;
  const differenceLsn = advance(startLsn, contradiction.at);
  const text = await withFile(
    disk,
    contradiction.path,
    (file) => explain(written, { differenceLsn, label: `"${contradiction.path}"`, bytes: bytesOfFile(file) }),
  );
  return await refuse(
    written,
    `Cannot archive ${segment}: other bytes of it were received before, and are kept as ` +
      `"${disk.root}/${contradiction.path}"; ${text ?? `they differ first at ${formatLsn(differenceLsn)}`}`,
  );
}

async function contradictionOf(
  written: WrittenSegment,
  validBytes: number,
): Promise<Contradiction | undefined> {
  const { acceptance: { archive, identity }, file, startLsn, unfinished } = written;
  const { segmentSize } = identity;
  return await findContradiction(archive.disk, { paths: unfinished, startLsn, segmentSize }, {
    file,
    validBytes,
  });
}

async function refuseBrokenLink(written: WrittenSegment): Promise<void> {
  const link = await checkBackLink(written.acceptance.archive.disk, linkedOf(written));
  if (link.kind !== "broken") return;
  return await refuse(
    written,
    `Cannot archive ${written.segment}: it does not continue this archive's ${link.before}: ${link.problem}`,
  );
}

function linkedOf({ timeline, number, lineage, scan, file }: WrittenSegment): LinkedSegment {
  return { timeline, number, lineage, scan, bytes: bytesOfFile(file) };
}

async function refusePublished(written: WrittenSegment, { path, difference }: Comparison): Promise<never> {
  const { acceptance: { archive: { disk }, identity: { segmentSize } }, startLsn, segment } = written;
  const differenceLsn = advance(startLsn, difference ?? 0);
  const text = await withPublishedBytes(
    disk,
    { name: segment, segmentSize },
    (bytes) => explain(written, { differenceLsn, label: "the archive's file", bytes }),
  );
  return await refuse(
    written,
    `Cannot archive ${segment}: the archive has other bytes under this name ("${disk.root}/${path}"); ${
      text ?? `they differ first at ${formatLsn(differenceLsn)}`
    }`,
  );
}

/** Keeps the brought side of a conflict, and tells. */
async function refuse(written: WrittenSegment, problem: string): Promise<never> {
  const { acceptance: { archive: { disk, modes }, temporary, brought } } = written;
  const kept = await keepConflict(disk, { from: temporary, name: brought.name }, {
    modes,
    naming: { hardLinks: true },
  });
  throw new ArchiveConflictError(
    `${problem}; nothing was overwritten, the pushed file is kept as "${disk.root}/${kept}": if its server does not ` +
      "belong to this archive, give it an archive of its own; if it does, move the other file away",
  );
}

async function explain(
  written: WrittenSegment,
  other: { readonly differenceLsn: Lsn; readonly label: string; readonly bytes: SegmentBytes },
): Promise<string> {
  const own = linkedOf(written);
  const { segmentSize, startLsn } = written.scan;
  const { disk } = written.acceptance.archive;
  const { differenceLsn } = other;
  // Up to the difference both are the same.
  const recordLsn = await recordStartAt(own.bytes, { lsn: differenceLsn, segmentSize });
  const sideOf = async (label: string, linked: LinkedSegment) => ({
    label,
    record: recordLsn === undefined ? undefined : await seeRecord(linked.bytes, { recordLsn, segmentSize }),
    backLink: await checkBackLink(disk, linked) satisfies BackLink,
    isContinued: await isContinuedByArchive(disk, linked),
  });
  const scanner = new SegmentScanner({ startLsn, segmentSize });
  await other.bytes(0, (piece) => {
    scanner.push(piece);
    return "more";
  });
  return explainConflict({
    differenceLsn,
    sides: [
      await sideOf(other.label, { ...own, scan: scanner.result(), bytes: other.bytes }),
      await sideOf("the pushed file", own),
    ],
  });
}

/**
 * Keeps a segment that is not complete where the rest of it grows.
 *
 * It is never refused for what it holds: the server would stop archiving at it for ever. What contradicts it is told.
 */
async function keepUnfinished(written: WrittenSegment, published: Comparison | undefined): Promise<Accepted> {
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
