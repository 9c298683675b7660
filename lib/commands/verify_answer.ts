import type { Finding } from "../archive/verify/finding.ts";
import { isProblem } from "../archive/verify/finding.ts";
import type { UsableRange, VerifyReport } from "../archive/verify/report.ts";
import { formatLsn } from "../wal/lsn.ts";
import { formatSegmentSize } from "../wal/segment.ts";
import { formatBytes } from "./live_line.ts";

/** What the answer tells besides what was found. */
export interface VerifyRun {
  readonly directory: string;
  readonly jobs: number;
  readonly seconds: number;
}

/** The answer for programs: one JSON object, one line. */
export function formatVerifyJson(report: VerifyReport, run: VerifyRun): string {
  const { layout, origin, majorVersion } = report;
  const answer = {
    ok: report.problemCount === 0,
    directory: run.directory,
    layout,
    systemIdentifier: origin?.systemIdentifier.toString() ?? null,
    segmentBytes: origin === undefined ? null : Number(origin.segmentSize),
    majorVersion: majorVersion ?? null,
    timelines: report.timelines.map(({ timeline, startLsn, endLsn, segments }) => ({
      timeline,
      startLsn: formatLsn(startLsn),
      endLsn: formatLsn(endLsn),
      segments,
    })),
    usable: report.usable.map(({ timeline, startLsn, endLsn, continues }) => ({
      timeline,
      startLsn: formatLsn(startLsn),
      endLsn: formatLsn(endLsn),
      continues,
    })),
    problemCount: report.problemCount,
    findings: report.findings.map(({ kind, path, timeline, lsn, problem, hint }) => ({
      kind,
      path: path ?? null,
      timeline: timeline ?? null,
      lsn: lsn === undefined ? null : formatLsn(lsn),
      problem,
      hint: hint ?? null,
    })),
    segments: report.segments,
    files: report.files,
    records: report.records,
    bytes: report.bytes,
    seconds: Number(run.seconds.toFixed(3)),
    jobs: run.jobs,
  };
  return JSON.stringify(answer) + "\n";
}

/** The answer for people. */
export function formatVerifyText(report: VerifyReport, run: VerifyRun): string {
  const { findings, problemCount, timelines } = report;
  const lines: string[] = [describeDirectory(report, run)];
  for (const { timeline, startLsn, endLsn, segments } of timelines) {
    lines.push(
      `timeline ${timeline}: ${formatLsn(startLsn)} to ${formatLsn(endLsn)}, ${count(segments, "segment")}`,
    );
  }
  if (timelines.length === 0) lines.push("no WAL");
  const problems = findings.filter(isProblem);
  for (const finding of [...problems, ...findings.filter((each) => !isProblem(each))]) {
    lines.push(...describeFinding(finding));
  }
  if (problems.length < problemCount) lines.push(`… and ${problemCount - problems.length} more`);
  if (problemCount > 0 && report.usable.length > 0) {
    lines.push("what can still be used:");
    for (const range of report.usable) lines.push(`  ${describeRange(range)}`);
  }
  lines.push(describeEnd(report, run));
  return lines.join("\n") + "\n";
}

const LAYOUTS = { archive: "archive", plain: "directory", server: "pg_wal" } as const;

function describeDirectory({ layout, origin, majorVersion }: VerifyReport, run: VerifyRun): string {
  const what = `${LAYOUTS[layout]} "${run.directory}"`;
  if (origin === undefined) return `${what} of an unknown cluster`;
  const version = majorVersion === undefined ? "" : `, PostgreSQL ${majorVersion}`;
  return `${what} of cluster ${origin.systemIdentifier}${version}, ${
    formatSegmentSize(origin.segmentSize)
  } segments`;
}

function describeFinding({ kind, path, lsn, problem, hint }: Finding): readonly string[] {
  const where = [path, lsn === undefined ? undefined : `at ${formatLsn(lsn)}`].filter((each) =>
    each !== undefined
  ).join(" ");
  const line = `${kind}: ${where === "" ? "" : `${where}: `}${problem}`;
  return hint === undefined ? [line] : [line, `  hint: ${hint}`];
}

function describeRange({ timeline, startLsn, endLsn, continues }: UsableRange): string {
  const goesOn = continues ? ", going on from the timeline before" : "";
  return `timeline ${timeline}: ${formatLsn(startLsn)} to ${formatLsn(endLsn)}${goesOn}`;
}

function describeEnd({ problemCount, files, records, bytes }: VerifyReport, { seconds }: VerifyRun): string {
  const read = `${count(files, "file")}, ${count(records, "record")}, ${formatBytes(bytes)} in ${
    seconds.toFixed(1)
  } s`;
  return problemCount === 0 ? `all right: ${read}` : `${count(problemCount, "problem")} found: ${read}`;
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
