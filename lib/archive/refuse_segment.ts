import { ArchiveConflictError } from "../wal/errors.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { allEnded } from "./all_ended.ts";
import {
  type BackLink,
  checkBackLink,
  isContinuedByArchive,
  type LinkedSegment,
  nameAfter,
} from "./back_link.ts";
import { UntiedSegmentError } from "./acceptance.ts";
import { compareBrought, type WrittenSegment } from "./brought_segment.ts";
import { keepConflict } from "./conflict.ts";
import { type Contradiction, findContradiction } from "./contradiction.ts";
import { DamagedFileError } from "./damaged_file.ts";
import { withFile } from "./durable.ts";
import { checkForwardLink } from "./forward_link.ts";
import { SEGMENT_FORMS } from "./layout.ts";
import type { PublishedComparison } from "./published.ts";
import { bytesOfFile, type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";
import { type DifferingSide, explainConflict, seeDifference } from "./segment_conflict.ts";

/** What the archive has around a segment; each was looked for on its own, and may have failed. */
export interface Surroundings {
  readonly contradiction: Promise<Contradiction | undefined>;
  readonly link: Promise<BackLink>;
  readonly isContinued: Promise<boolean | undefined>;
}

/** Looks for all that may speak against a segment, at once; nothing is under way any more when it resolves. */
export async function lookAround(written: WrittenSegment): Promise<Surroundings> {
  const { disk } = written.acceptance.archive;
  const linked = linkedOf(written);
  const [contradiction, link, isContinued] = await allEnded([
    contradictionOf(written, Number(written.scan.segmentSize)),
    checkBackLink(disk, linked),
    isContinuedByArchive(disk, linked),
  ]);
  return { contradiction, link, isContinued };
}

/** Refuses a segment of which other bytes were received before (P3). */
export async function refuseContradiction(
  written: WrittenSegment,
  around: Pick<Surroundings, "contradiction">,
): Promise<void> {
  const contradiction = await around.contradiction;
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

/** The first unfinished file here that is other than the segment, below the end of valid WAL of both. */
export async function contradictionOf(
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

/** Refuses a segment that does not continue the one before it in the archive, or that the one after does not (P5). */
export async function refuseBrokenLink(
  written: WrittenSegment,
  around: Pick<Surroundings, "link" | "isContinued">,
): Promise<void> {
  const link = await around.link;
  if (link.kind === "broken") {
    return await refuse(
      written,
      `Cannot archive ${written.segment}: it does not continue this archive's ${link.before}: ${link.problem}`,
    );
  }
  if (await around.isContinued !== false) return;
  return await refuse(
    written,
    `Cannot archive ${written.segment}: this archive's ${nameAfter(linkedOf(written))} does not continue it`,
  );
}

/**
 * Refuses a segment for which its neighbour does not vouch.
 *
 * @throws {UntiedSegmentError} when the neighbour is not there, or tells nothing yet.
 */
export async function refuseUntied(
  written: WrittenSegment,
  around: Pick<Surroundings, "link">,
): Promise<void> {
  const { acceptance: { archive: { disk }, brought, options: { tiedTo } }, segment } = written;
  if (tiedTo === undefined) return;
  if (tiedTo === "before") {
    if ((await around.link).kind === "continues") return;
    throw new UntiedSegmentError(
      `Cannot archive ${brought.name}: the segment before it is not there to vouch for it`,
    );
  }
  const link = await checkForwardLink(disk, linkedOf(written));
  if (link.kind === "continued") return;
  if (link.kind === "unknown") {
    throw new UntiedSegmentError(
      `Cannot archive ${brought.name}: nothing stands right behind it yet to vouch for it`,
    );
  }
  return await refuse(
    written,
    `Cannot archive ${segment}: this archive's ${link.behind} does not continue it: ${link.problem}`,
  );
}

function linkedOf({ timeline, number, lineage, scan, file }: WrittenSegment): LinkedSegment {
  return { timeline, number, lineage, scan, bytes: bytesOfFile(file) };
}

/** Refuses a segment whose name has other bytes already (P4). */
export async function refusePublished(
  written: WrittenSegment,
  { path, difference }: PublishedComparison,
): Promise<never> {
  const { acceptance: { archive: { disk }, identity: { segmentSize } }, startLsn, segment } = written;
  const differenceLsn = advance(startLsn, difference ?? 0);
  const forms = SEGMENT_FORMS.filter((form) => path === segment + form);
  const text = await withPublishedBytes(
    disk,
    { name: segment, segmentSize, forms },
    (bytes) => explain(written, { differenceLsn, label: "the archive's file", bytes }),
  ).catch((error) => {
    // Behind the difference it may be damaged too: then there is less to tell.
    if (!(error instanceof DamagedFileError)) throw error;
  });
  return await refuse(
    written,
    `Cannot archive ${segment}: the archive has other bytes under this name ("${disk.root}/${path}"); ${
      text ?? `they differ first at ${formatLsn(differenceLsn)}`
    }`,
  );
}

/** Keeps the brought side of a conflict, and tells. */
async function refuse(written: WrittenSegment, problem: string): Promise<never> {
  const { acceptance: { archive: { disk, modes }, temporary, brought }, form } = written;
  const kept = await keepConflict(disk, { from: temporary, name: brought.name + form }, {
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
  const { sides: [theirs, pushed] } = await seeDifference(
    [other, { label: "the pushed file", bytes: own.bytes }],
    { differenceLsn, segmentSize },
  );
  const sideOf = async (seen: DifferingSide, linked: LinkedSegment) => ({
    ...seen,
    backLink: await checkBackLink(disk, linked),
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
      await sideOf(theirs, { ...own, scan: scanner.result(), bytes: other.bytes }),
      await sideOf(pushed, own),
    ],
  });
}

/**
 * Refuses a segment, when it has its name, if another form of it came at the same time and holds other bytes.
 *
 * Neither is taken away again: somebody may have read it.
 */
export async function refuseOtherForms(written: WrittenSegment): Promise<void> {
  const { acceptance: { archive: { disk } }, segment, startLsn, file, form } = written;
  const others = SEGMENT_FORMS.filter((other) => other !== form);
  const looks = await allEnded(others.map((other) => disk.entry(segment + other)));
  for (const [index, other] of others.entries()) {
    if (await looks[index] === undefined) continue;
    const found = await compareBrought(written, { file, forms: [other] });
    if (found?.difference === undefined) continue;
    throw new ArchiveConflictError(
      `Cannot archive ${segment}: other bytes of it came at the same time, "${disk.root}/${found.path}" beside ` +
        `"${disk.root}/${segment}${form}"; they differ first at ${
          formatLsn(advance(startLsn, found.difference))
        }; find out which server belongs to this archive, and move the other one's file away`,
    );
  }
}
