import { crc32c } from "../../lib/wal/crc32c.ts";
import { formatHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";
import { type SegmentSize, segmentSize } from "../../lib/wal/segment.ts";
import { type TimelineId, timelineId } from "../../lib/wal/timeline.ts";
import { MIB, SYSTEM_IDENTIFIER, writePageHeader } from "../wal/wal_builder.ts";
import { Random } from "./random.ts";

export const SEGMENT_BYTES = MIB;
export const SEGMENT_SIZE: SegmentSize = segmentSize(SEGMENT_BYTES);
const BIG_SEGMENT = BigInt(SEGMENT_BYTES);

const XLOG = 0;
const SWITCH_INFO = 0x40;
const OVERWRITE_CONTRECORD_INFO = 0xd0;
const OVERWRITES_CONTRECORD = 0x08;

/** One line of WAL as one server had it: a timeline with all that came before. */
export interface Branch {
  readonly name: string;
  readonly history: TimelineHistory;
  readonly firstSegment: bigint;
  /** Whole segments, zeros behind the end. Shared with other branches where they have the same bytes. */
  readonly segments: readonly Uint8Array[];
  /** Where a flush of the server may end: ends of records, and page boundaries within long ones. */
  readonly stops: readonly bigint[];
  readonly endLsn: bigint;
}

/** What becomes of the server when its WAL has reached the end of an era. */
export type Ending =
  /** Nothing: the last era. */
  | "none"
  /** The same server is promoted: open connections are told. */
  | "promoted"
  /** Another server is promoted; it may not have got all of this one's WAL. */
  | "failed-over"
  /** It crashes, gives up the record that was open at the end, and goes on at that page. */
  | "crashed"
  /** It crashes and writes other bytes over the record that was open, as servers before 14.1 did. */
  | "rewrote"
  /** An orderly restart. */
  | "restarted";

export interface Era {
  readonly branch: Branch;
  /** The era's last flush. */
  readonly endLsn: bigint;
  readonly ending: Ending;
}

/** All that a server and its successors ever wrote. */
export interface World {
  readonly eras: readonly Era[];
  readonly firstLsn: Lsn;
  /** What a clone of the first server wrote, which went its own way somewhere in the first era, on the same timeline. */
  clone(): Branch;
}

/** The branch's bytes: at most up to the end of the segment that holds `startLsn`. */
export function branchBytes(branch: Branch, startLsn: bigint, endLsn: bigint): Uint8Array {
  const index = Number(startLsn / BIG_SEGMENT - branch.firstSegment);
  const start = Number(startLsn % BIG_SEGMENT);
  return branch.segments[index]!.subarray(start, Math.min(SEGMENT_BYTES, start + Number(endLsn - startLsn)));
}

export function historyBytes(history: TimelineHistory): Uint8Array {
  return new TextEncoder().encode(formatHistory(history));
}

/** Bodies of records, with their CRCs: making them is most of the cost. */
const BODIES: readonly { readonly bytes: Uint8Array; readonly crc: number }[] = (() => {
  const random = new Random(4711);
  const lengths = [
    0,
    1,
    7,
    8,
    30,
    100,
    500,
    1900,
    4000,
    7000,
    8100,
    8168,
    9000,
    16000,
    20000,
    30000,
    50000,
    90000,
  ];
  return lengths.flatMap((length) =>
    [0, 1].map(() => {
      const bytes = new Uint8Array(length);
      for (let i = 0; i < length; i++) bytes[i] = random.integer(0, 255);
      return { bytes, crc: crc32c(bytes) };
    })
  );
})();

/** Writes WAL as a server does: pages, headers, links, CRCs. */
export class Writer {
  readonly segments: Uint8Array[] = [];
  readonly stops: bigint[] = [];
  history: TimelineHistory;
  position: bigint;
  /** Where the last record begins. */
  last: bigint;
  /** The last record's beginnings and ends. */
  readonly records: { readonly start: bigint; readonly end: bigint; readonly before: bigint }[] = [];
  #overwrites = false;

  constructor(
    private readonly random: Random,
    readonly firstSegment: bigint,
    history: TimelineHistory,
  ) {
    this.history = history;
    this.position = firstSegment * BIG_SEGMENT;
    this.last = this.position - 128n;
  }

  branch(name: string): Branch {
    const { history, firstSegment } = this;
    const segments = [...this.segments];
    return { name, history, firstSegment, segments, stops: [...this.stops], endLsn: this.position };
  }

  /** Another writer that goes on at `at`, on the same timeline or a new one. */
  fork(at: bigint, before: bigint, timeline?: TimelineId, random = this.random): Writer {
    const history = timeline === undefined ? this.history : {
      timeline,
      entries: [...this.history.entries, {
        timeline: this.history.timeline,
        endLsn: lsn(at),
        reason: "no recovery target specified",
      }],
    };
    const writer = new Writer(random, this.firstSegment, history);
    const whole = Number(at / BIG_SEGMENT - this.firstSegment);
    writer.segments.push(...this.segments.slice(0, whole));
    const rest = Number(at % BIG_SEGMENT);
    if (rest > 0) {
      const cut = this.segments[whole]!.slice();
      cut.fill(0, rest);
      writer.segments.push(cut);
    }
    writer.stops.push(...this.stops.filter((stop) => stop <= at));
    writer.records.push(...this.records.filter((record) => record.end <= at));
    writer.position = at;
    writer.last = before;
    return writer;
  }

  get pageLeft(): number {
    return PAGE_BYTES - Number(this.position % BigInt(PAGE_BYTES));
  }

  /** The header of the page that begins here, if one does. */
  #enterPage(remainingBytes: number): void {
    if (this.position % BigInt(PAGE_BYTES) !== 0n) return;
    const offset = Number(this.position % BIG_SEGMENT);
    const bytes = this.#segment();
    const flags = this.#overwrites ? { flags: OVERWRITES_CONTRECORD } : {};
    this.#overwrites = false;
    writePageHeader(bytes, offset, {
      pageLsn: this.position,
      timeline: this.history.timeline,
      remainingBytes,
      ...flags,
    });
    if (offset > 0) {
      this.position += 24n;
      return;
    }
    const view = new DataView(bytes.buffer);
    view.setUint16(2, view.getUint16(2, true) | 2, true);
    view.setBigUint64(24, SYSTEM_IDENTIFIER, true);
    view.setUint32(32, SEGMENT_BYTES, true);
    view.setUint32(36, PAGE_BYTES, true);
    this.position += 40n;
  }

  #segment(): Uint8Array {
    const index = Number(this.position / BIG_SEGMENT - this.firstSegment);
    return this.segments[index] ??= new Uint8Array(SEGMENT_BYTES);
  }

  /** Writes a record; with `pages` only up to the end of that many pages: the server crashed then. */
  record(
    body: { readonly bytes: Uint8Array; readonly crc: number },
    options: { readonly resourceManager?: number; readonly info?: number; readonly pages?: number } = {},
  ): void {
    this.#enterPage(0);
    const start = this.position;
    const record = new Uint8Array(24 + body.bytes.length);
    const view = new DataView(record.buffer);
    record.set(body.bytes, 24);
    view.setUint32(0, record.length, true);
    view.setUint32(4, 700 + this.records.length, true);
    view.setBigUint64(8, this.last, true);
    record[16] = options.info ?? 0x10;
    record[17] = options.resourceManager ?? 10;
    view.setUint32(20, crc32c(record.subarray(0, 20), body.crc), true);
    let pages = 0;
    for (let taken = 0; taken < record.length;) {
      if (taken > 0 && this.position % BigInt(PAGE_BYTES) === 0n) {
        this.#stop();
        if (options.pages !== undefined && ++pages >= options.pages) return;
      }
      this.#enterPage(record.length - taken);
      const count = Math.min(record.length - taken, this.pageLeft);
      this.#segment().set(record.subarray(taken, taken + count), Number(this.position % BIG_SEGMENT));
      taken += count;
      this.position += BigInt(count);
    }
    this.position = (this.position + 7n) / 8n * 8n;
    this.records.push({ start, end: this.position, before: this.last });
    this.last = start;
    this.#stop();
  }

  #stop(): void {
    if (this.stops.at(-1) !== this.position) this.stops.push(this.position);
  }

  any(): void {
    this.record(this.random.pick(BODIES));
  }

  /** Records up to about `bytes` from here. */
  grow(bytes: number): void {
    const end = this.position + BigInt(bytes);
    while (this.position < end) this.any();
  }

  switchSegment(): void {
    this.record(BODIES[0]!, { resourceManager: XLOG, info: SWITCH_INFO });
    const over = this.position % BIG_SEGMENT;
    if (over > 0n) this.position += BIG_SEGMENT - over;
    // A record ends where the next page would begin: its header comes with the next record.
    this.#stop();
  }

  /** A record that ends exactly where the page does. */
  fillPage(): void {
    this.#enterPage(0);
    if (this.pageLeft < 24) this.any();
    this.#enterPage(0);
    if (this.pageLeft < 24) return this.fillPage();
    const bytes = new Uint8Array(this.pageLeft - 24).fill(0xab);
    this.record({ bytes, crc: crc32c(bytes) });
  }

  /** A record of which a crash leaves only some pages; the writer then stands at a page's start. */
  tear(): void {
    this.record(BODIES.at(-1)!, { pages: this.random.integer(1, 6) });
  }

  /** What a server writes first where it gave up a record. */
  overwriteContrecord(): void {
    this.#overwrites = true;
    this.record(BODIES[8]!, { resourceManager: XLOG, info: OVERWRITE_CONTRECORD_INFO });
  }
}

const WORLD_COUNT = 40;
/** So many seeds share the same worlds: then others come, for those who play for hours. */
const SEEDS_OF_WORLDS = 2500;
const worlds = new Map<number, World>();

/** The world of a seed; a few are shared by many seeds, since making one costs as much as playing a seed. */
export function worldOf(seed: number): World {
  const index = seed % WORLD_COUNT + WORLD_COUNT * Math.floor(seed / SEEDS_OF_WORLDS);
  let world = worlds.get(index);
  if (world === undefined) {
    if (worlds.size >= WORLD_COUNT) worlds.delete([...worlds.keys()][0]!);
    world = makeWorld(new Random(1000 + index), index);
    worlds.set(index, world);
  }
  return world;
}

function makeWorld(random: Random, index: number): World {
  // Near the 4 GiB edge, and timelines of one digit and of two.
  const firstSegment = random.pick([3n, 0xffen, 0x1ffdn, 77n]);
  const startTimeline = random.pick([1, 1, 9]);
  const history: TimelineHistory = {
    timeline: timelineId(startTimeline),
    entries: startTimeline === 1
      ? []
      : [{ timeline: timelineId(1), endLsn: lsn(0x100028n), reason: "before" }],
  };
  let writer = new Writer(random, firstSegment, history);
  writer.grow(random.integer(100_000, 1_300_000));
  if (random.chance(0.3)) {
    writer.switchSegment();
    writer.grow(random.integer(1000, 400_000));
  }
  // Room for gaps of many segments, and for segments between gaps.
  if (index % 5 === 2) writer.grow(random.integer(2_500_000, 4_000_000));
  const first = writer.fork(writer.position, writer.last);
  let cloned: Branch | undefined;
  const eras: Era[] = [];
  const eraCount = index % 4 === 0 ? 1 : random.integer(2, 3);
  for (let era = 1; era <= eraCount; era++) {
    if (era > 1) writer.grow(random.integer(500, random.pick([20_000, 700_000, 1_200_000])));
    const ending: Ending = era === eraCount
      ? "none"
      : random.pick(["promoted", "failed-over", "failed-over", "crashed", "rewrote", "restarted"] as const);
    const name = `${era}: timeline ${writer.history.timeline}`;
    const next = timelineId(writer.history.timeline + random.pick([1, 1, 2]));
    switch (ending) {
      case "none":
      case "restarted": {
        if (era === eraCount && random.chance(0.3)) writer.switchSegment();
        eras.push({ branch: writer.branch(name), endLsn: writer.position, ending });
        break;
      }
      case "promoted":
      case "failed-over": {
        const place = random.pick(["anywhere", "anywhere", "page", "segment", "torn"] as const);
        if (place === "page") writer.fillPage();
        if (place === "segment") writer.switchSegment();
        let at = writer.position;
        let before = writer.last;
        if (place === "torn") {
          writer.tear();
          at = writer.position;
        } else if (ending === "failed-over") {
          // The old server went on alone; sometimes a long way.
          if (random.chance(0.7)) writer.grow(random.pick([300, 5000, 60_000, 500_000]));
        } else if (random.chance(0.5)) {
          // Of the server that is promoted only the beginning of a record was there.
          const half = writer.fork(at, before);
          half.tear();
          eras.push({ branch: half.branch(name), endLsn: half.position, ending });
          writer = writer.fork(at, before, next);
          break;
        }
        eras.push({ branch: writer.branch(name), endLsn: writer.position, ending });
        writer = writer.fork(at, before, next);
        if (place === "torn") writer.overwriteContrecord();
        else before = writer.last;
        break;
      }
      case "crashed": {
        writer.tear();
        eras.push({ branch: writer.branch(name), endLsn: writer.position, ending });
        writer = writer.fork(writer.position, writer.last);
        writer.overwriteContrecord();
        break;
      }
      case "rewrote": {
        const at = writer.position;
        const before = writer.last;
        const segment = at / BIG_SEGMENT;
        const torn = writer.fork(at, before);
        torn.tear();
        // Over a segment's end the bytes were archived: that is a conflict, and another test.
        const over = torn.position / BIG_SEGMENT !== segment || at % BIG_SEGMENT === 0n;
        eras.push({ branch: (over ? writer : torn).branch(name), endLsn: over ? at : torn.position, ending });
        writer = writer.fork(at, before);
        break;
      }
    }
    if (ending !== "none") writer.grow(random.pick([200, 9000, 100_000]));
  }
  const clone = () => cloned ??= cloneOf(first, new Random(5000 + index));
  return { eras, firstLsn: lsn(firstSegment * BIG_SEGMENT), clone };
}

/** Other records from somewhere on, and more of them than the server has. */
function cloneOf(original: Writer, random: Random): Branch {
  const { records, position } = original;
  const { start, before } = records[random.integer(0, records.length >> 1)]!;
  const writer = original.fork(start, before, undefined, random);
  // The server wrote something else here.
  writer.record(BODIES[random.integer(2, 5)]!, { info: 0x20 });
  writer.grow(Number(position - start) + 3 * SEGMENT_BYTES);
  return writer.branch("clone");
}
