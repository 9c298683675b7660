import process from "node:process";
import { Archive } from "../archive/archive.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { errorCode } from "../archive/durable.ts";
import { isAnchoredBehind } from "../archive/forward_link.ts";
import { NOTHING_BEHIND_YET } from "../archive/gap_filler.ts";
import {
  encodeGapAcceptance,
  encodeGapHealing,
  type Gap,
  gapOfSegments,
  type GapRange,
  segmentsOfGap,
} from "../archive/gaps.ts";
import { nameOf } from "../archive/layout.ts";
import { RangeProof, type UnprovenSegment } from "../archive/range_proof.ts";
import type { HealedGap } from "../receiver/healing.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentFloor, type SegmentNumber, type SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { archiveDirectory } from "./archive_directory.ts";
import { type ArchiveGaps, findGaps, isMissing, isOpen } from "./archive_gaps.ts";
import { realClock } from "./clock.ts";
import { namedConnection, operatingSystemUser } from "./connection.ts";
import { type CommandContext, EXIT, UsageError } from "./context.ts";
import { acceptedText, gapListJson, gapListText, healJson, healText } from "./gap_answer.ts";
import type { GapAcceptOptions, GapHealOptions, GapListOptions } from "./gap_options.ts";
import { Healing } from "./healing.ts";
import { commandLog } from "./logging.ts";
import { ProgressLine } from "./progress_line.ts";

/** Lists what is missing; resolves to the exit code. */
export async function gapList(options: GapListOptions, context: CommandContext): Promise<number> {
  const path = archiveDirectory(options.archive, context);
  const found = await findGaps(await openArchive(path, "read"));
  context.stdout.write(options.json ? JSON.stringify(gapListJson(path, found)) + "\n" : gapListText(found));
  return found.gaps.some(isOpen) ? EXIT.no : EXIT.done;
}

/** Writes down that missing WAL is given up; resolves to the exit code. */
export async function gapAccept(options: GapAcceptOptions, context: CommandContext): Promise<number> {
  const path = archiveDirectory(options.archive, context);
  const reason = options.reason.trim();
  if (reason === "") {
    throw new UsageError(
      "No reason is given",
      "Say with --reason why nobody can bring the WAL: gap list shows it",
    );
  }
  const archive = await openArchive(path, "write");
  const found = await findGaps(archive);
  const range = acceptableRange(found, options, path);
  await archive.appendToLedger(encodeGapAcceptance({
    ...range,
    acceptedAt: new Date().toISOString(),
    acceptedBy: context.env["SUDO_USER"] ?? (operatingSystemUser(context) || "an unknown user"),
    reason,
  }));
  // Its disk may have been taken away meanwhile: then the line went into what lies below the mount point.
  await archive.confirm();
  context.stdout.write(acceptedText(range, found.segmentSize));
  return EXIT.done;
}

/** Brings in what is missing; resolves to the exit code. */
export async function gapHeal(options: GapHealOptions, context: CommandContext): Promise<number> {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  const path = archiveDirectory(options.archive, context);
  const connection = namedConnection(options.connection, context);
  const log = commandLog(context, options);
  for (const warning of connection?.warnings ?? []) log.warn("connection string", { warning });
  const before = await findGaps(await openArchive(path, "write"));
  const healing = new Healing({
    directory: path,
    peers: options.peer ?? [],
    settings: connection?.settings,
    timeoutMs: options.receiveTimeout,
    log,
  });
  const line = new ProgressLine(context.stderr, realClock, { enabled: options.quiet !== true });
  let results: readonly HealedGap[];
  let unproven: readonly UnprovenSegment[];
  let after: ArchiveGaps;
  try {
    const gaps = before.gaps.filter(isMissing).map((gap) => segmentsOfGap(gap, before.segmentSize));
    const totalBytes = gaps.reduce((sum, gap) => sum + Number(gap.endNumber - gap.firstNumber), 0) *
      before.segmentSize;
    let doneBytes = 0;
    line.show({ doneBytes, totalBytes });
    const onProgress = () => line.show({ doneBytes: doneBytes += before.segmentSize, totalBytes });
    // Somebody looks at what comes of it: what nobody can bring up to its end is brought as far as it is there.
    const tiedTo = ["behind", "before"] as const;
    results = gaps.length === 0
      ? []
      : await healing.round(gaps, { onProgress, tiedTo, signal: context.signal });
    const archive = await openArchive(path, "write");
    // What others brought meanwhile counts too.
    unproven = await proveFilled(archive, context.signal);
    after = await findGaps(archive);
  } finally {
    line.clear();
    await healing.close();
  }
  context.stdout.write(
    options.json
      ? JSON.stringify(healJson(path, { results, unproven, after })) + "\n"
      : healText({ results, unproven, after }, path),
  );
  return after.gaps.some(isOpen) ? EXIT.no : EXIT.done;
}

/**
 * Looks at every byte of what stands in recorded gaps, and writes down which of them are healed: until somebody does, they
 * count as gaps.
 *
 * @returns what is not proven.
 */
async function proveFilled(archive: Archive, signal: AbortSignal): Promise<readonly UnprovenSegment[]> {
  const { gaps, segmentSize } = await findGaps(archive);
  const proof = new RangeProof(archive);
  const unproven: UnprovenSegment[] = [];
  for (const gap of gaps.filter(({ state }) => state === "unproven")) {
    const run = segmentsOfGap(gap, segmentSize);
    const found = await proof.unproven(run, signal);
    unproven.push(...found);
    if (found.length > 0) continue;
    if (!await isVouchedFor(archive, run, { gaps, segmentSize })) {
      const last = { timeline: run.timeline, number: run.endNumber - 1n as SegmentNumber };
      unproven.push({ name: nameOf(last, segmentSize), problem: NOTHING_BEHIND_YET });
      continue;
    }
    const healedAt = new Date().toISOString();
    await archive.appendToLedger(encodeGapHealing({ ...gapOfSegments(run, segmentSize), healedAt }));
  }
  // Its disk may have been taken away meanwhile: then the lines went into what lies below the mount point.
  await archive.confirm();
  return unproven;
}

/** Another server's WAL looks right as long as nothing stands behind it; what is missing there will be tied to it. */
async function isVouchedFor(
  { disk }: Archive,
  { timeline, endNumber }: SegmentRun,
  { gaps, segmentSize }: Pick<ArchiveGaps, "gaps" | "segmentSize">,
): Promise<boolean> {
  const isGapBehind = gaps.filter(({ state }) => state !== "unproven")
    .some((gap) => segmentsOfGap(gap, segmentSize).firstNumber === endNumber);
  const number = endNumber - 1n as SegmentNumber;
  return isGapBehind || await isAnchoredBehind(disk, { timeline, number, segmentSize });
}

/** Whoever only reads need not be the owner. */
async function openArchive(path: string, use: "read" | "write"): Promise<Archive> {
  let archive: Archive;
  const disk = openDirectDisk(path);
  const hint = "Name the directory that walvault receives into with --archive";
  try {
    if (await disk.entry(".") === undefined) {
      throw new UsageError(
        `Cannot look for gaps in "${path}": there is no such directory; is its disk mounted?`,
        hint,
      );
    }
    archive = await Archive.open(disk, {
      naming: { hardLinks: true },
      userId: use === "read" ? undefined : process.geteuid?.(),
    });
  } catch (cause) {
    if (errorCode(cause) === undefined) throw cause;
    throw new Error(`Cannot open the archive "${path}"`, { cause });
  }
  if (archive.identity !== undefined) return archive;
  throw new UsageError(
    `Cannot look for gaps in "${path}": it is no archive, as there is no archive.json in it; is its disk mounted?`,
    hint,
  );
}

/**
 * The segments that are to be given up.
 *
 * @throws {UsageError} when some of them are not missing.
 */
export function acceptableRange(
  { gaps, segmentSize }: Pick<ArchiveGaps, "gaps" | "segmentSize">,
  asked: { readonly timeline: TimelineId; readonly from: Lsn; readonly to?: Lsn },
  path: string,
): GapRange {
  const { timeline, from, to } = asked;
  const startLsn = segmentFloor(from, segmentSize);
  const endLsn = endOfGaps(gaps.filter((gap) => gap.timeline === timeline), startLsn);
  if (to !== undefined && to <= from) {
    throw new UsageError(
      `--to ${formatLsn(to)} is not behind --from ${formatLsn(from)}`,
      "Give a later --to",
    );
  }
  const wanted = endLsn === undefined
    ? undefined
    : whole({ timeline, startLsn, endLsn: to ?? endLsn }, segmentSize);
  if (endLsn !== undefined && wanted !== undefined && wanted.endLsn <= endLsn) return wanted;
  const what = endLsn === undefined
    ? `the segment at ${formatLsn(startLsn)} on timeline ${timeline} is in no gap`
    : `the gap from ${formatLsn(startLsn)} on timeline ${timeline} ends at ${formatLsn(endLsn)}`;
  throw new UsageError(
    `Cannot accept what is not missing: ${what}`,
    `The gaps there are: walvault gap list --archive ${path}`,
  );
}

/** The end of what is missing from here on without anything between. */
function endOfGaps(gaps: readonly Gap[], startLsn: Lsn): Lsn | undefined {
  let end: Lsn | undefined;
  for (const gap of gaps) {
    if (end === undefined ? gap.startLsn <= startLsn && startLsn < gap.endLsn : gap.startLsn === end) {
      end = gap.endLsn;
    }
  }
  return end;
}

function whole(range: GapRange, size: SegmentSize): GapRange {
  return gapOfSegments(segmentsOfGap(range, size), size);
}
