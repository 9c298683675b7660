import { crc32c } from "../wal/crc32c.ts";
import { emptyHistory, type TimelineHistory } from "../wal/history.ts";
import {
  holesOnLineage,
  joinedRuns,
  type LineageStock,
  type LineageView,
  missingBelow,
  overlap,
  type SegmentRun,
  unprovenBelow,
  withoutRuns,
} from "../wal/lineage.ts";
import { formatLsn, type Lsn, maxLsn, minLsn, parseLsn } from "../wal/lsn.ts";
import { type SegmentNumber, segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { type TimelineId, timelineId } from "../wal/timeline.ts";

/** The version of a line that this program writes, and the newest that it reads. */
export const LEDGER_VERSION = 1;

/** WAL of one timeline, as segments' names tell it; both ends are segments' starts. */
export interface GapRange {
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

/** What was known when WAL was found to be missing. */
export interface GapRecord extends GapRange {
  /** ISO 8601, UTC. */
  readonly recordedAt: string;
  readonly reason: string;
  /** The last server that was asked, and its answer. */
  readonly server: string;
  readonly answer: string;
}

/** Somebody's word that missing WAL will not come any more. */
export interface GapAcceptance extends GapRange {
  /** ISO 8601, UTC. */
  readonly acceptedAt: string;
  readonly acceptedBy: string;
  readonly reason: string;
}

/**
 * That WAL was here, complete and proven, which was missing or only begun before: what is removed of it some day with
 * all that is old is missed by nobody.
 */
export interface GapHealing extends GapRange {
  /** ISO 8601, UTC. */
  readonly healedAt: string;
}

/**
 * What an inventory can't tell about missing WAL.
 *
 * Whether something of it is here now is not in it: that the inventory tells.
 */
export interface GapLedger {
  /** In the order of recording; some may tell the same again. */
  readonly records: readonly GapRecord[];
  readonly acceptances: readonly GapAcceptance[];
  readonly healings: readonly GapHealing[];
  /** Lines of kinds that this program does not know: a newer one wrote them, and they count for nothing here. */
  readonly unknownLines: number;
  /** Lines that were cut off or damaged: they count for nothing. */
  readonly unreadableLines: number;
}

/** A ledger without a line. */
export const EMPTY_LEDGER: GapLedger = {
  records: [],
  acceptances: [],
  healings: [],
  unknownLines: 0,
  unreadableLines: 0,
};

function checksumOf(fields: Readonly<Record<string, unknown>>): string {
  return crc32c(new TextEncoder().encode(JSON.stringify(fields))).toString(16).padStart(8, "0");
}

function encodeLine(kind: string, { timeline, startLsn, endLsn, ...rest }: GapRange): Uint8Array {
  const range = { timeline, startLsn: formatLsn(startLsn), endLsn: formatLsn(endLsn) };
  const fields = { walvault: kind, version: LEDGER_VERSION, ...range, ...rest };
  return new TextEncoder().encode(JSON.stringify({ ...fields, checksum: checksumOf(fields) }) + "\n");
}

/** The ledger's line for WAL that is missing, with the CRC-32C of its other fields. */
export function encodeGapRecord(record: GapRecord): Uint8Array {
  return encodeLine("gap", record);
}

/** The ledger's line for WAL that somebody gave up. */
export function encodeGapAcceptance(acceptance: GapAcceptance): Uint8Array {
  return encodeLine("acceptance", acceptance);
}

/** The ledger's line for WAL that was seen to be here, and proven. */
export function encodeGapHealing(healing: GapHealing): Uint8Array {
  return encodeLine("healed", healing);
}

/** The ledger's line that takes a record back: the WAL was not given up after all, and is asked for as any other. */
export function encodeGapWithdrawal(
  { recordedAt, ...range }: GapRange & { readonly recordedAt: string },
): Uint8Array {
  const { timeline, startLsn, endLsn } = range;
  return encodeLine("withdrawal", { timeline, startLsn, endLsn, recordedAt } as GapRange);
}

/**
 * Reads a ledger.
 *
 * A last line without its end is one that a crash cut off: nothing was done that counts on it. Lines that can't be right
 * are passed over: what they told to be missing is asked for and recorded again. Fields that are not known are left alone,
 * and lines of kinds that are not known are counted, for whoever reads to tell.
 * @throws {SyntaxError} on a line of another version: what it means can't be guessed.
 */
export function parseLedger(bytes: Uint8Array): GapLedger {
  const lines = new TextDecoder().decode(bytes).split("\n");
  const cutOff = lines.pop() !== "";
  const records: GapRecord[] = [];
  const acceptances: GapAcceptance[] = [];
  const healings: GapHealing[] = [];
  let unknownLines = 0;
  const withdrawn: (GapRange & { readonly recordedAt: string })[] = [];
  let unreadableLines = cutOff ? 1 : 0;
  for (const [index, line] of lines.entries()) {
    const fields = line === "" ? undefined : readObject(line);
    if (fields === undefined) {
      if (line !== "") unreadableLines++;
      continue;
    }
    if (fields["version"] !== LEDGER_VERSION && typeof fields["walvault"] === "string") {
      throw new SyntaxError(
        `Cannot read gaps.jsonl, line ${index + 1}: version ${JSON.stringify(fields["version"])}, ` +
          `want ${LEDGER_VERSION}; a newer walvault wrote it`,
      );
    }
    const { checksum, ...rest } = fields;
    const range = checksum === checksumOf(rest) ? readRange(fields) : undefined;
    if (range === undefined) unreadableLines++;
    else if (fields["walvault"] === "gap") {
      records.push({ ...range, ...readTexts(fields, ["recordedAt", "reason", "server", "answer"]) });
    } else if (fields["walvault"] === "acceptance") {
      acceptances.push({ ...range, ...readTexts(fields, ["acceptedAt", "acceptedBy", "reason"]) });
    } else if (fields["walvault"] === "withdrawal") {
      withdrawn.push({ ...range, ...readTexts(fields, ["recordedAt"]) });
    } else if (fields["walvault"] === "healed") {
      healings.push({ ...range, ...readTexts(fields, ["healedAt"]) });
    } else unknownLines++;
  }
  const isWithdrawn = (record: GapRecord) =>
    withdrawn.some(({ timeline, startLsn, endLsn, recordedAt }) =>
      timeline === record.timeline && startLsn === record.startLsn && endLsn === record.endLsn &&
      recordedAt === record.recordedAt
    );
  return {
    records: records.filter((record) => !isWithdrawn(record)),
    acceptances,
    healings,
    unknownLines,
    unreadableLines,
  };
}

function readObject(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? value as Readonly<Record<string, unknown>>
      : undefined;
  } catch {
    return undefined;
  }
}

function readRange(fields: Readonly<Record<string, unknown>>): GapRange | undefined {
  const { timeline, startLsn, endLsn } = fields;
  if (typeof timeline !== "number" || typeof startLsn !== "string" || typeof endLsn !== "string") {
    return undefined;
  }
  try {
    const range = { timeline: timelineId(timeline), startLsn: parseLsn(startLsn), endLsn: parseLsn(endLsn) };
    return range.startLsn < range.endLsn ? range : undefined;
  } catch {
    return undefined;
  }
}

function readTexts<Name extends string>(
  fields: Readonly<Record<string, unknown>>,
  names: readonly Name[],
): Record<Name, string> {
  const texts = names.map((name) => [name, typeof fields[name] === "string" ? fields[name] : ""] as const);
  return Object.fromEntries(texts) as Record<Name, string>;
}

/** What a ledger tells last of the WAL at one place: that it was given up, or else that it is missing. */
export function gapAt(
  { records, acceptances }: GapLedger,
  place: Pick<GapRange, "timeline" | "startLsn">,
): GapAcceptance | GapRecord | undefined {
  const holds = ({ timeline, startLsn, endLsn }: GapRange) =>
    timeline === place.timeline && startLsn <= place.startLsn && place.startLsn < endLsn;
  return acceptances.findLast(holds) ?? records.findLast(holds);
}

/** The segments of a range. */
export function segmentsOfGap({ timeline, startLsn, endLsn }: GapRange, size: SegmentSize): SegmentRun {
  // Nobody writes other ends than segments' starts; a segment of which some is missing is missing.
  const endNumber = (endLsn + BigInt(size) - 1n) / BigInt(size) as SegmentNumber;
  return { timeline, firstNumber: segmentNumberAt(startLsn, size), endNumber };
}

/** The bytes of some segments. */
export function gapOfSegments({ timeline, firstNumber, endNumber }: SegmentRun, size: SegmentSize): GapRange {
  return { timeline, startLsn: segmentStart(firstNumber, size), endLsn: segmentStart(endNumber, size) };
}

/** What a ledger says to be missing, whatever has come since. */
export function missingByLedger(ledger: GapLedger, size: SegmentSize): LineageStock["gaps"] {
  const accepted = ledger.acceptances.map((range) => segmentsOfGap(range, size));
  return {
    recorded: [...ledger.records.map((range) => segmentsOfGap(range, size)), ...accepted],
    accepted,
    healed: ledger.healings.map((range) => segmentsOfGap(range, size)),
  };
}

/** WAL that is missing on a lineage: one stretch about which the ledger tells one thing. */
export interface Gap extends GapRange {
  /**
   * - `open`: recorded, and nobody has given it up.
   * - `unrecorded`: the ledger says nothing; whoever receives next asks for it.
   * - `unproven`: recorded, and here by name; what counts on it waits until every byte was looked at.
   * - `accepted`: given up.
   */
  readonly state: "open" | "unrecorded" | "unproven" | "accepted";
  /** The newest that covers it. */
  readonly record: GapRecord | undefined;
  readonly acceptance: GapAcceptance | undefined;
}

/** What `gapsOf` looks at; `contents` without what the ledger adds to it. */
export interface GapView {
  readonly contents: Omit<LineageStock, "gaps">;
  readonly ledger: GapLedger;
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
}

/** Every hole on a lineage, lowest first, and what stands in one unproven, with what the ledger tells of it. */
export function gapsOf({ contents, ledger, lineage, segmentSize }: GapView): readonly Gap[] {
  const stock = { ...contents, gaps: missingByLedger(ledger, segmentSize) };
  return describe(holesAndUnproven({ contents: stock, lineage, segmentSize }), ledger, segmentSize);
}

interface Unsettled {
  readonly holes: readonly SegmentRun[];
  readonly unproven: readonly SegmentRun[];
}

function holesAndUnproven(view: LineageView): Unsettled {
  return {
    holes: holesOnLineage(view, "all"),
    unproven: unprovenBelow(view, endOfRuns(view.contents.gaps.recorded)),
  };
}

function endOfRuns(runs: readonly SegmentRun[]): SegmentNumber {
  return runs.reduce<bigint>((last, run) => run.endNumber > last ? run.endNumber : last, 0n) as SegmentNumber;
}

/** As `gapsOf`, of every timeline that the archive or its ledger knows of; by timeline, lowest first. */
export function allGaps(
  { contents, ledger, histories, segmentSize }: Omit<GapView, "lineage"> & {
    readonly histories: readonly TimelineHistory[];
  },
): readonly Gap[] {
  const stock = { ...contents, gaps: missingByLedger(ledger, segmentSize) };
  const known = [...contents.runs, ...contents.unfinished, ...histories, ...stock.gaps.recorded];
  const all = [...new Set(known.map(({ timeline }) => timeline))].map((timeline) => {
    const lineage = histories.find((history) => history.timeline === timeline) ?? emptyHistory(timeline);
    return holesAndUnproven({ contents: stock, lineage, segmentSize });
  });
  // Lineages share ancestors, and so their holes.
  const holes = joinedRuns(all.flatMap((lineage) => lineage.holes));
  const unproven = joinedRuns(all.flatMap((lineage) => lineage.unproven));
  return describe({ holes, unproven }, ledger, segmentSize);
}

function describe({ holes, unproven }: Unsettled, ledger: GapLedger, size: SegmentSize): readonly Gap[] {
  const told = [
    ...holes.map((run) => ({ run, isHere: false })),
    ...unproven.map((run) => ({ run, isHere: true })),
  ].sort(({ run: a }, { run: b }) => a.timeline - b.timeline || (a.firstNumber < b.firstNumber ? -1 : 1));
  return told.flatMap(({ run: hole, isHere }) => {
    const whole = gapOfSegments(hole, size);
    return stretchesOf(whole, [...ledger.records, ...ledger.acceptances]).map((range) => {
      const record = ledger.records.findLast((one) => covers(one, range));
      const acceptance = ledger.acceptances.findLast((one) => covers(one, range));
      const state = isHere
        ? "unproven"
        : acceptance !== undefined
        ? "accepted"
        : record !== undefined
        ? "open"
        : "unrecorded";
      return { ...range, state, record, acceptance } as const;
    });
  });
}

/** What was recorded to be missing and is all here again, proven; each range once, the newest record of it. */
export function healedGaps({ contents: { runs }, ledger, segmentSize }: Pick<
  GapView,
  "contents" | "ledger" | "segmentSize"
>): readonly GapRecord[] {
  const newest = new Map<string, GapRecord>();
  for (const record of ledger.records) {
    newest.set(`${record.timeline} ${record.startLsn} ${record.endLsn}`, record);
  }
  const { healed, accepted } = missingByLedger(ledger, segmentSize);
  return [...newest.values()].filter((record) => {
    const run = segmentsOfGap(record, segmentSize);
    return withoutRuns(run, runs).length === 0 && withoutRuns(run, [...healed, ...accepted]).length === 0;
  });
}

/**
 * Where the lowest WAL of a lineage begins that was recorded to be missing, and has neither come, proven, nor been given
 * up: only a line of the ledger makes it another.
 */
export function firstWanted({ contents, ledger, lineage, segmentSize }: GapView): Lsn | undefined {
  const gaps = missingByLedger(ledger, segmentSize);
  const recorded = ledger.records.map((range) => segmentsOfGap(range, segmentSize));
  const endNumber = endOfRuns(recorded);
  const view = { contents: { ...contents, gaps }, lineage, segmentSize };
  const missing = missingBelow(view, endNumber, "open")
    .find((each) => recorded.some((run) => overlap(run, each)));
  const [unproven] = unprovenBelow(view, endNumber);
  const starts = [missing, unproven].flatMap((run) => run === undefined ? [] : [run.firstNumber]);
  return starts.length === 0 ? undefined : segmentStart(starts.reduce((a, b) => a < b ? a : b), segmentSize);
}

/** Cuts a range wherever one of the others begins or ends in it; neighbours that the same ones cover stay one. */
function stretchesOf(whole: GapRange, others: readonly GapRange[]): readonly GapRange[] {
  const cuts = new Set<Lsn>([whole.startLsn, whole.endLsn]);
  for (const { timeline, startLsn, endLsn } of others) {
    if (timeline !== whole.timeline || endLsn <= whole.startLsn || startLsn >= whole.endLsn) continue;
    cuts.add(maxLsn(startLsn, whole.startLsn)).add(minLsn(endLsn, whole.endLsn));
  }
  const ordered = [...cuts].sort((a, b) => a < b ? -1 : 1);
  return ordered.slice(1).map((endLsn, index) => ({
    timeline: whole.timeline,
    startLsn: ordered[index]!,
    endLsn,
  }));
}

function covers(outer: GapRange, inner: GapRange): boolean {
  return outer.timeline === inner.timeline && outer.startLsn <= inner.startLsn &&
    inner.endLsn <= outer.endLsn;
}
