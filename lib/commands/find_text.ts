import type { ArchiveIdentity } from "../archive/identity.ts";
import type { TransactionMark } from "../archive/segment_index.ts";
import type { FindAnswer, FindNote, FindTarget, FoundPlace, NotFound } from "../observe/find_target.ts";
import { formatSettings, type RecoverySettings, recoverySettings } from "../observe/recovery_lines.ts";
import type { RoadSegment } from "../observe/wal_road.ts";
import { formatLsn } from "../wal/lsn.ts";
import { segmentOffset } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { formatTimestamp } from "../wal/timestamp.ts";

/** What `find` has to tell. */
export interface FindFacts {
  readonly target: FindTarget;
  /** Along which it was looked for. */
  readonly timeline: TimelineId;
  readonly newestTimeline: TimelineId;
  readonly identity: ArchiveIdentity;
  readonly answer: FindAnswer;
}

/** The answer for a person, and for postgresql.conf: all but the settings are comments there. */
export function findText(facts: FindFacts): string {
  const { answer } = facts;
  const lines = answer.found ? foundLines(facts, answer) : notFoundLines(facts, answer);
  return lines.join("\n") + "\n";
}

function foundLines(facts: FindFacts, answer: FoundPlace): readonly string[] {
  const { stop, segment, backupFromLsn, commitBefore, commitAfter, notes } = answer;
  const offset = segmentOffset(stop.lsn, facts.identity.segmentSize);
  return [
    ...commented([
      headline(facts, answer),
      `in ${pathOf(segment)}, byte ${offset}, timeline ${segment.timeline}`,
      commitLine("the last commit that is in", commitBefore),
      commitLine("the first commit that is not in", commitAfter),
      `needs a base backup that began at ${formatLsn(backupFromLsn)} or later and was complete before ${
        formatLsn(stop.lsn)
      }`,
      ...branchLines(facts),
      ...notes.map(noteLine),
    ]),
    ...formatSettings(recoverySettings(answer.target, facts.timeline)),
  ];
}

function headline({ target }: FindFacts, { stop, target: recovery }: FoundPlace): string {
  const inclusive = recovery.kind === "name" || recovery.inclusive;
  switch (stop.kind) {
    case "restore point":
      return `restore point ${JSON.stringify(stop.name)}, made ${
        formatTimestamp(stop.time)
      }: recovery stops after it, at ${formatLsn(stop.lsn)}`;
    case "record": {
      const where = inclusive ? "after" : "before";
      const first = `recovery stops ${where} the record at ${formatLsn(stop.lsn)}`;
      const { holds } = stop;
      if (holds === undefined || holds.lsn === stop.lsn) return first;
      const inside = target.kind === "lsn" ? formatLsn(target.lsn) : "";
      return `${inside} lies in the record at ${formatLsn(holds.lsn)}; ${first}, the next one`;
    }
    case "commit":
    case "abort": {
      const what = `the ${stop.kind} of transaction ${stop.xid} at ${formatLsn(stop.lsn)}, ${
        formatTimestamp(stop.time)
      }`;
      if (target.kind === "time") {
        return `${formatTimestamp(target.time)}: recovery stops before ${what}`;
      }
      const first = `recovery stops ${inclusive ? "after" : "before"} ${what}`;
      return stop.subxid === undefined
        ? first
        : `${stop.subxid} is a subtransaction of ${stop.xid}; ${first}`;
    }
  }
}

function notFoundLines(facts: FindFacts, answer: NotFound): readonly string[] {
  const { commitBefore, commitAfter, nearest, names, window, notes } = answer;
  return commented([
    notFoundHeadline(facts, answer),
    ...(window === undefined ? [] : [
      `commits from ${formatTimestamp(window.first.time)} (${formatLsn(window.first.lsn)}) to ${
        formatTimestamp(window.last.time)
      } (${formatLsn(window.last.lsn)}) are here`,
    ]),
    ...(commitBefore === undefined || facts.target.kind === "xid" || facts.target.kind === "name"
      ? []
      : [commitLine("the commit before", commitBefore)]),
    ...(commitAfter === undefined ? [] : [commitLine("the commit after", commitAfter)]),
    ...(names.length === 0
      ? []
      : [`restore points here: ${names.map((name) => JSON.stringify(name)).join(", ")}`]),
    ...branchLines(facts),
    ...notes.map(noteLine),
    ...(nearest === undefined || facts.target.kind === "name" || facts.target.kind === "xid" ? [] : [
      `the nearest place: the commit of transaction ${nearest.commit.xid} at ${
        formatLsn(nearest.commit.lsn)
      }, ${formatTimestamp(nearest.commit.time)}; recovery stops right after it with`,
      ...formatSettings(nearestSettings(nearest.commit, facts.timeline)),
    ]),
  ]);
}

function notFoundHeadline({ target, timeline }: FindFacts, { where }: NotFound): string {
  const what = target.kind === "time"
    ? formatTimestamp(target.time)
    : target.kind === "lsn"
    ? formatLsn(target.lsn)
    : target.kind === "xid"
    ? `transaction ${target.xid}`
    : `restore point ${JSON.stringify(target.name)}`;
  switch (where) {
    case "before":
      return `${what} is before all that is here of timeline ${timeline}`;
    case "after":
      return target.kind === "time"
        ? `${what} is not yet reached on timeline ${timeline}: nothing later has ended here, and recovery would fail at the end of WAL`
        : `${what} is not yet reached on timeline ${timeline}`;
    case "hole":
      return `${what} lies where WAL is missing on timeline ${timeline}`;
    case "damage":
      return `${what} lies behind WAL that is damaged on timeline ${timeline}`;
    case "absent":
      return target.kind === "xid"
        ? `${what} did not end in the WAL that is here`
        : target.kind === "name"
        ? `${what} is not in the WAL that is here`
        : `no commit is here on timeline ${timeline}`;
  }
}

function branchLines({ timeline, newestTimeline }: FindFacts): readonly string[] {
  if (timeline === newestTimeline) return [];
  return [`along timeline ${timeline}; the newest here is ${newestTimeline}`];
}

function noteLine(note: FindNote): string {
  switch (note.kind) {
    case "later commits": {
      const count = note.count === 0 ? "" : `${note.count} `;
      const more = note.more ? " and more in later segments" : "";
      return `note: ${count}commits behind that have times that are not later (the last one seen at ${
        formatLsn(note.lastLsn)
      })${more}: other sessions were faster, or the clock was set back; they are not in`;
    }
    case "also at":
      return `note: the same stands at ${
        note.lsns.map(formatLsn).join(", ")
      }; recovery stops at the first one that it meets`;
    case "also before a hole":
      return `note: the clock showed this time before ${formatLsn(note.holeLsn)} too, where WAL is missing`;
    case "epoch unknown":
      return `note: a transaction of the same lower 32 bits ended at ${
        note.lsns.map(formatLsn).join(", ")
      }, and no checkpoint near tells its upper ones; ask for it by the lower ones alone`;
    case "damage":
      return `note: ${note.segment.name} is damaged at ${
        formatLsn(note.lsn)
      }: no recovery from before gets past it; walvault verify tells more`;
  }
}

function commitLine(what: string, mark: TransactionMark | undefined): string {
  if (mark === undefined) return `${what}: none here`;
  return `${what}: ${formatLsn(mark.lsn)}, transaction ${mark.xid}, ${formatTimestamp(mark.time)}`;
}

function commented(lines: readonly string[]): readonly string[] {
  return lines.map((line) => `# ${line}`);
}

function pathOf({ name, unfinished }: RoadSegment): string {
  return unfinished?.[0] ?? name;
}

/** By its LSN: there may be no later end of a transaction, which a time needs. */
function nearestSettings(commit: TransactionMark, timeline: TimelineId): RecoverySettings {
  return recoverySettings({ kind: "lsn", lsn: commit.lsn, inclusive: true }, timeline);
}

/** The answer for programs. Fields that have no value are left out. */
export function findJson(facts: FindFacts): Readonly<Record<string, unknown>> {
  const { target, timeline, newestTimeline, answer } = facts;
  const common = {
    found: answer.found,
    target: targetJson(target),
    timeline,
    newestTimeline,
    commitBefore: markJson(answer.commitBefore),
    commitAfter: markJson(answer.commitAfter),
  };
  if (!answer.found) {
    const { where, nearest, window, names, notes } = answer;
    return {
      ...common,
      where,
      window: window === undefined
        ? undefined
        : { first: markJson(window.first), last: markJson(window.last) },
      nearest: nearest === undefined
        ? undefined
        : { ...markJson(nearest.commit), recovery: nearestSettings(nearest.commit, timeline) },
      restorePoints: target.kind === "name" ? names : undefined,
      notes: notes.map(noteJson),
    };
  }
  const { stop, segment, backupFromLsn, notes } = answer;
  return {
    ...common,
    stop: {
      kind: stop.kind,
      lsn: formatLsn(stop.lsn),
      ...(stop.kind === "record"
        ? { holds: stop.holds === undefined ? undefined : formatLsn(stop.holds.lsn) }
        : { time: formatTimestamp(stop.time) }),
      ...(stop.kind === "restore point" ? { name: stop.name } : {}),
      ...(stop.kind === "commit" || stop.kind === "abort" ? { xid: stop.xid, subxid: stop.subxid } : {}),
    },
    segment: segment.name,
    path: pathOf(segment),
    offset: segmentOffset(stop.lsn, facts.identity.segmentSize),
    backup: { fromLsn: formatLsn(backupFromLsn), beforeLsn: formatLsn(stop.lsn) },
    recovery: recoverySettings(answer.target, timeline),
    notes: notes.map(noteJson),
  };
}

function noteJson(note: FindNote): Readonly<Record<string, unknown>> {
  return { kind: note.kind, text: noteLine(note).replace(/^note: /, "") };
}

function targetJson(target: FindTarget): Readonly<Record<string, unknown>> {
  switch (target.kind) {
    case "time":
      return { kind: "time", time: formatTimestamp(target.time) };
    case "xid":
      return { kind: "xid", xid: target.xid, epoch: target.epoch };
    case "lsn":
      return { kind: "lsn", lsn: formatLsn(target.lsn) };
    case "name":
      return { kind: "name", name: target.name };
  }
}

function markJson(mark: TransactionMark | undefined): Readonly<Record<string, unknown>> | undefined {
  if (mark === undefined) return undefined;
  return { lsn: formatLsn(mark.lsn), xid: mark.xid, time: formatTimestamp(mark.time) };
}
