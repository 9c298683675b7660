import { NOTHING_BEHIND_YET } from "../archive/gap_filler.ts";
import { type Gap, type GapRange, type GapRecord, segmentsOfGap } from "../archive/gaps.ts";
import { nameOf } from "../archive/layout.ts";
import type { UnprovenSegment } from "../archive/range_proof.ts";
import type { HealedGap } from "../receiver/healing.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentSize, segmentStart } from "../wal/segment.ts";
import { type ArchiveGaps, isOpen } from "./archive_gaps.ts";
import { formatBytes } from "./live_line.ts";
import { maskSecrets } from "./mask_secrets.ts";

// docs/json.md describes what is made here. Fields are added, never changed; one that is not known is left out.

/** The answer of `gap list --json`. */
export function gapListJson(path: string, { gaps, healed, segmentSize, ledger }: ArchiveGaps): object {
  return {
    archive: path,
    open: gaps.filter(isOpen).length,
    gaps: [
      ...gaps.map((gap) => gapJson(gap, segmentSize)),
      ...healed.map((record) => ({
        state: "healed",
        ...rangeJson(record, segmentSize),
        ...recordJson(record),
      })),
    ],
    unreadableLines: ledger.unreadableLines,
    unknownLines: ledger.unknownLines,
  };
}

/** One gap, as `gap list` and `status` tell it. */
export function gapJson(gap: Gap, size: SegmentSize): object {
  const { acceptance, record } = gap;
  return {
    state: isOpen(gap) ? "open" : "accepted",
    ...(gap.state === "unproven" ? { unproven: true } : {}),
    ...rangeJson(gap, size),
    ...recordJson(record),
    ...(acceptance === undefined ? {} : {
      acceptedAt: formatTime(acceptance.acceptedAt),
      acceptedBy: acceptance.acceptedBy,
      acceptedReason: acceptance.reason,
    }),
  };
}

function rangeJson(range: GapRange, size: SegmentSize) {
  const { timeline, firstNumber, endNumber } = segmentsOfGap(range, size);
  return {
    timeline,
    startLsn: formatLsn(range.startLsn),
    endLsn: formatLsn(range.endLsn),
    segments: Number(endNumber - firstNumber),
    bytes: Number(range.endLsn - range.startLsn),
    firstFile: nameOf({ timeline, number: firstNumber }, size),
  };
}

function recordJson(record: GapRecord | undefined) {
  if (record === undefined) return { recorded: false };
  const { recordedAt, reason, server, answer } = record;
  return { recorded: true, recordedAt: formatTime(recordedAt), reason, server, answer };
}

/** ISO 8601 as PostgreSQL writes times. */
export function formatTime(iso: string): string {
  return iso.replace("T", " ").replace("Z", "+00");
}

/** What a person is told of the gaps. */
export function gapListText({ gaps, healed, segmentSize, ledger }: ArchiveGaps): string {
  const rows = [
    ...gaps.map((gap) => ({ state: stateOf(gap), range: gap, notes: notesOf(gap) })),
    ...healed.map((record) => ({ state: "healed", range: record, notes: [recordNote(record)] })),
  ];
  const open = gaps.filter(isOpen).length;
  const lines = rows.length === 0 ? [] : table(rows, segmentSize);
  lines.push(
    open === 0
      ? "no gap is open"
      : `${open} ${open === 1 ? "gap is" : "gaps are"} open: no restore can go across; ` +
        "bring what is missing with gap heal or push, or give it up with gap accept",
  );
  if (ledger.unreadableLines > 0) {
    const many = ledger.unreadableLines === 1 ? "1 line" : `${ledger.unreadableLines} lines`;
    lines.push(`${many} of gaps.jsonl can't be read`);
  }
  if (ledger.unknownLines > 0) lines.push(unknownLinesText(ledger.unknownLines));
  return lines.join("\n") + "\n";
}

/** What is to be said of lines that a newer program wrote into the ledger. */
export function unknownLinesText(lines: number): string {
  const [many, are, their] = lines === 1 ? ["1 line", "is", "its"] : [`${lines} lines`, "are", "their"];
  return `${many} of gaps.jsonl ${are} of a kind that this version does not know: a newer walvault wrote ${
    lines === 1 ? "it" : "them"
  }, and ${their} meaning is not in this answer`;
}

function stateOf({ state }: Gap): string {
  return state === "unrecorded" ? "open" : state;
}

function notesOf({ state, record, acceptance }: Gap): readonly string[] {
  return [
    ...(state === "unproven"
      ? ["here, but not proven yet: receive and gap heal look at every byte of it"]
      : []),
    record === undefined ? "not recorded yet" : recordNote(record),
    ...(acceptance === undefined ? [] : [
      `accepted ${formatTime(acceptance.acceptedAt)} by ${acceptance.acceptedBy}: ${acceptance.reason}`,
    ]),
  ];
}

function recordNote({ recordedAt, reason, server, answer }: GapRecord): string {
  const said = server === "" ? "" : `; ${server}: ${answer}`;
  return `recorded ${formatTime(recordedAt)}: ${reason}${said}`;
}

interface Row {
  readonly state: string;
  readonly range: GapRange;
  readonly notes: readonly string[];
}

function table(rows: readonly Row[], size: SegmentSize): string[] {
  const header = ["State", "Timeline", "From", "To", "Segments", "WAL", "First file"];
  const cells = rows.map(({ state, range }) => {
    const { timeline, firstNumber, endNumber } = segmentsOfGap(range, size);
    return [
      state,
      String(timeline),
      formatLsn(range.startLsn),
      formatLsn(range.endLsn),
      String(endNumber - firstNumber),
      formatBytes(Number(range.endLsn - range.startLsn)),
      nameOf({ timeline, number: firstNumber }, size),
    ];
  });
  const widths = header.map((title, column) =>
    Math.max(title.length, ...cells.map((row) => row[column]!.length))
  );
  const format = (row: readonly string[]) =>
    row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ").trimEnd();
  const indent = " ".repeat(widths[0]! + 2);
  return [
    format(header),
    ...rows.flatMap(({ notes }, index) => [format(cells[index]!), ...notes.map((note) => indent + note)]),
  ];
}

/** What `gap accept` has done, and what that means. */
export function acceptedText(range: GapRange, size: SegmentSize): string {
  const { firstNumber, endNumber } = segmentsOfGap(range, size);
  const segments = endNumber - firstNumber;
  return `accepted: timeline ${range.timeline}, ${formatLsn(range.startLsn)} to ${
    formatLsn(range.endLsn)
  }, ` +
    `${segments} ${segments === 1n ? "segment" : "segments"}\n` +
    `No restore can go across it: what lies behind needs a base backup that begins at or after ${
      formatLsn(range.endLsn)
    }.\n`;
}

/** What `gap heal` has to tell. */
interface HealReport {
  readonly results: readonly HealedGap[];
  /** What stands in a gap, and is not what is missing there. */
  readonly unproven: readonly UnprovenSegment[];
  readonly after: ArchiveGaps;
}

/** The answer of `gap heal --json`. */
export function healJson(
  path: string,
  { results, unproven, after: { gaps, segmentSize } }: HealReport,
): object {
  return {
    archive: path,
    open: gaps.filter(isOpen).length,
    gaps: results.map((result) => ({
      state: result.missing.length === 0 ? "healed" : "open",
      ...runJson(result.gap, segmentSize),
      missing: result.missing.map((run) => runJson(run, segmentSize)),
      answers: result.answers.map(({ source, segments, answer }) => ({
        source,
        segments,
        ...(answer === undefined ? {} : { answer: maskSecrets(answer) }),
      })),
    })),
    unproven: unproven.map(({ name, problem }) => ({ name, problem })),
  };
}

function runJson(run: SegmentRun, size: SegmentSize) {
  return {
    timeline: run.timeline,
    startLsn: formatLsn(segmentStart(run.firstNumber, size)),
    endLsn: formatLsn(segmentStart(run.endNumber, size)),
    segments: Number(run.endNumber - run.firstNumber),
  };
}

/** What a person is told of `gap heal`. */
export function healText({ results, unproven, after }: HealReport, path: string): string {
  const size = after.segmentSize;
  const lines = results.flatMap(({ gap, missing, answers }) => {
    const left = missing.reduce((sum, run) => sum + run.endNumber - run.firstNumber, 0n);
    const state = left === 0n
      ? "healed"
      : `${left} of ${gap.endNumber - gap.firstNumber} segments still missing`;
    return [
      `timeline ${gap.timeline}, ${rangeText(gap, size)}: ${state}`,
      ...answers.map(({ source, segments, answer }) =>
        `  ${source}: ${
          [
            ...(segments === 0 ? [] : [`brought ${segments}`]),
            ...(answer === undefined ? [] : [maskSecrets(answer)]),
          ]
            .join("; ")
        }`
      ),
    ];
  });
  lines.push(...unproven.map(({ name, problem }) => `${name} is here, and not proven: ${problem}`));
  if (unproven.some(({ problem }) => problem !== NOTHING_BEHIND_YET)) {
    lines.push("move away what is not what is missing, and heal again");
  }
  const open = after.gaps.filter(isOpen).length;
  lines.push(
    open === 0
      ? "no gap is open"
      : `${open} ${open === 1 ? "gap is" : "gaps are"} open: walvault gap list --archive ${path}`,
  );
  return lines.join("\n") + "\n";
}

function rangeText({ firstNumber, endNumber }: SegmentRun, size: SegmentSize): string {
  return `${formatLsn(segmentStart(firstNumber, size))} to ${formatLsn(segmentStart(endNumber, size))}`;
}
