import { timelineAt, type TimelineHistory } from "../../wal/history.ts";
import { advance, type Lsn, lsn } from "../../wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../../wal/segment.ts";
import type { TimelineId } from "../../wal/timeline.ts";
import type { SegmentBytes } from "../segment_bytes.ts";
import { firstState, type JoinableSegment, type Joined, joinSegment, type JoinState } from "./joining.ts";
import type { TimelineStart } from "./lineage.ts";
import type { Held } from "./proven_segment.ts";
import type { UsableRange, VerifyTally } from "./report.ts";
import { isIndexDue, type SegmentTask } from "./segment_proof.ts";

/** A segment's place. */
interface Place {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

/** What is known where a segment ends: how the WAL goes on there, and how far it can be used. */
interface Behind {
  readonly path: string;
  readonly state: JoinState;
  readonly range: OpenRange | undefined;
}

/** What is known of the places where a segment joins its neighbours. */
export interface Joins {
  /** The record that it shares with the segment before, or the one behind, is whole. */
  readonly before: boolean;
  readonly behind: boolean;
  /** It does not join one of them. */
  readonly isBroken: boolean;
}

interface OpenRange {
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly continues: boolean;
  endLsn: Lsn;
}

/** Joins segments to each other, each timeline's in their order, and a timeline's first one to where it came from. */
export class SegmentChain {
  /** Of the last segment, and of those that a later timeline begins behind. */
  readonly #behind = new Map<string, Behind>();
  /** Behind which another timeline begins. */
  readonly #forks: ReadonlySet<string>;
  readonly #present: ReadonlySet<string>;
  #lastKey: string | undefined;
  readonly #ranges: OpenRange[] = [];
  /** By path, of those whose index is not right. */
  readonly #joins = new Map<string, { before: boolean; behind: boolean; isBroken: boolean }>();
  readonly timelineStarts: TimelineStart[] = [];

  constructor(
    private readonly tally: VerifyTally,
    private readonly facts: {
      readonly histories: ReadonlyMap<TimelineId, TimelineHistory>;
      readonly segmentSize: SegmentSize;
      /** All that will come. */
      readonly numbers: readonly Place[];
      readonly bytesOf: (task: SegmentTask) => SegmentBytes;
    },
  ) {
    this.#present = new Set(facts.numbers.map(keyOf));
    this.#forks = new Set(
      facts.numbers.map((place) => this.#before(place)).filter((before) => before?.isFork).map((before) =>
        before!.key
      ),
    );
  }

  /** Ranges that can be used, in the order of the segments. */
  usable(): readonly UsableRange[] {
    return this.#ranges.filter(({ startLsn, endLsn }) => startLsn < endLsn);
  }

  /** Of a segment whose index is not right, once all have been taken. */
  joinsOf(path: string): Joins | undefined {
    return this.#joins.get(path);
  }

  /** Takes the next segment; one of which nothing is there ends what can be joined. */
  async add(held: Held): Promise<void> {
    const { proof, extent, timeline, number } = held;
    const key = keyOf(held);
    const before = this.#behind.get(this.#before({ timeline, number })?.key ?? "");
    if (this.#lastKey !== undefined && !this.#forks.has(this.#lastKey)) this.#behind.delete(this.#lastKey);
    this.#lastKey = key;
    if (extent === "none") return;
    this.timelineStarts.push(...proof.timelineStarts.map((mark) => ({ ...mark, path: held.path })));
    const segment: JoinableSegment = {
      path: held.path,
      scan: proof.scan,
      head: proof.head,
      tail: proof.tail,
      bytes: this.facts.bytesOf(held.task),
    };
    const kind = proof.state === "complete" ? "complete" : "tail";
    // What can't be read to its end is not read again.
    const isReadable = proof.state !== "damaged" || held.task.format === undefined;
    const joined = before === undefined || !isReadable
      ? { state: firstState(segment), proven: [], problem: undefined }
      : await joinSegment(before.state, segment, kind);
    if (joined.problem !== undefined) {
      this.tally.add({ ...joined.problem, path: held.path, timeline });
    }
    if (isIndexDue(proof)) this.#joins.set(held.path, { before: false, behind: false, isBroken: false });
    if (before !== undefined) this.#note(joined, before, held.path);
    const from = joined.problem === undefined && isReadable ? before : undefined;
    const range = this.#extend(held, from?.range);
    if (proof.state === "complete") this.#behind.set(key, { path: held.path, state: joined.state, range });
  }

  #note({ problem, proven }: Joined, before: Behind, path: string): void {
    for (const [index, segment] of proven.entries()) {
      const joins = this.#joins.get(segment.path);
      if (joins === undefined) continue;
      if (index > 0) joins.before = true;
      if (index < proven.length - 1) joins.behind = true;
    }
    if (problem === undefined) return;
    const sharing = before.state.open?.segments.map((segment) => segment.path) ?? [];
    for (const each of [...sharing, before.path, path]) {
      const joins = this.#joins.get(each);
      if (joins !== undefined) joins.isBroken = true;
    }
  }

  #extend(held: Held, from: OpenRange | undefined): OpenRange | undefined {
    const { timeline, proof: { scan, state } } = held;
    const { firstRecordLsn, startLsn } = scan;
    // What goes on in the next segment is proven there.
    const isWhole = state === "complete" && scan.openRecordLsn === undefined;
    const endLsn = isWhole ? advance(startLsn, scan.segmentSize) : scan.endLsn;
    if (from !== undefined && from.timeline === timeline) {
      // The middle of a record adds nothing yet.
      if (isWhole || endLsn > startLsn) from.endLsn = endLsn;
      return from;
    }
    if (from === undefined && firstRecordLsn === undefined) return undefined;
    const range: OpenRange = from === undefined
      ? { timeline, startLsn: firstRecordLsn ?? startLsn, continues: false, endLsn }
      : { timeline, startLsn, continues: true, endLsn };
    this.#ranges.push(range);
    return range;
  }

  /** The segment before: of the timeline itself, or of the one that it came from. */
  #before({ timeline, number }: Place): { readonly key: string; readonly isFork: boolean } | undefined {
    if (number === 0n) return undefined;
    const before = (number - 1n) as SegmentNumber;
    const own = keyOf({ timeline, number: before });
    if (this.#present.has(own)) return { key: own, isFork: false };
    const history = this.facts.histories.get(timeline);
    if (history === undefined) return undefined;
    const endLsn = segmentStart(number, this.facts.segmentSize);
    const parent = timelineAt(history, lsn(endLsn - 1n));
    return parent === timeline
      ? undefined
      : { key: keyOf({ timeline: parent, number: before }), isFork: true };
  }
}

function keyOf({ timeline, number }: Place): string {
  return `${timeline} ${number}`;
}
