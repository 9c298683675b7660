import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { FORMAT_OF_FORM, PieceCompressor } from "../../lib/archive/compression.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { compareOverlap, type Overlap, OVERLAP_BYTES, planOverlap } from "../../lib/archive/overlap.ts";
import { ArchiveConflictError, CorruptWalError } from "../../lib/wal/errors.ts";
import { emptyHistory, parseHistory } from "../../lib/wal/history.ts";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { timestampOfUnix } from "../../lib/wal/timestamp.ts";
import { buildWal, MIB, type RecordPlan } from "../wal/wal_builder.ts";
import { MODES, NAMES, NAMING, onSimDisk, SEGMENT_SIZE, START } from "./on_sim_disk.ts";

const [FIRST = "", SECOND = ""] = NAMES;
const NEXT = lsn(START + BigInt(MIB));
const LINEAGE = emptyHistory(timelineId(1));

/** A commit at so many seconds after 2026-11-25 09:00. */
function commitAt(seconds: number, xid: number): RecordPlan {
  const body = new Uint8Array(10);
  body.set([255, 8]);
  const time = timestampOfUnix(BigInt(Date.UTC(2026, 10, 25, 9, 0, seconds)) * 1000n);
  new DataView(body.buffer).setBigInt64(2, time, true);
  return { totalBytes: 34, resourceManager: 1, info: 0, xid, body };
}

interface Side {
  /** What is written from the record number 150 on carries these. */
  readonly xid: number;
  readonly second: number;
}

const OWN: Side = { xid: 5000, second: 20 };
const OTHER: Side = { xid: 9000, second: 40 };

/** A segment and a bit more: all of its records lie at the same places, whoever wrote them. */
function walOfSide({ xid, second }: Side, bytes = MIB): Uint8Array {
  const records: RecordPlan[] = [];
  for (let index = 0, total = 0; total < bytes + MIB; index++, total += 5034) {
    const isShared = index < 150;
    records.push({ totalBytes: 5000, xid: isShared ? 700 : xid });
    records.push(isShared ? commitAt(10, 700) : commitAt(second, xid));
  }
  const { segments } = buildWal({ startLsn: START, segmentBytes: bytes, records });
  return segments[0]!;
}

async function put(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  const file = await disk.create(path, 0o600);
  await file.write(bytes, 0);
  await file.sync();
  await file.close();
}

async function prepare(disk: Disk): Promise<void> {
  await disk.makeDirectory("inprogress", 0o700);
  await disk.syncDirectory(".");
}

const SEARCH = { startLsn: NEXT, lineage: LINEAGE, segmentSize: SEGMENT_SIZE };
const OPTIONS = { segmentSize: SEGMENT_SIZE, modes: MODES, naming: NAMING };
const WHOLE: Overlap = { timeline: timelineId(1), startLsn: START, endLsn: NEXT };

function compare(disk: Disk, bytes: Uint8Array, overlap = WHOLE): Promise<void> {
  return compareOverlap(disk, { overlap, bytes, server: "db2:5432" }, OPTIONS);
}

test("planOverlap() wants the last bytes before a segment's start, where they end with the segment", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    assert.equal(await planOverlap(disk, SEARCH), undefined);
    assert.equal(await planOverlap(disk, { ...SEARCH, startLsn: lsn(0n) }), undefined);
    await put(disk, FIRST, walOfSide(OWN));
    assert.deepEqual(await planOverlap(disk, SEARCH), WHOLE);
  }));

test("planOverlap() wants no more than a stretch of a large segment", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const size = segmentSize(4 * MIB);
    const start = lsn(0n);
    const records = Array.from({ length: 2000 }, () => ({ totalBytes: 5000 }));
    const { segments } = buildWal({ startLsn: start, segmentBytes: size, records });
    await put(disk, "000000010000000000000000", segments[0]!);
    const overlap = await planOverlap(disk, { ...SEARCH, segmentSize: size, startLsn: lsn(BigInt(size)) });
    assert.equal(overlap?.endLsn, BigInt(size));
    assert.equal(overlap?.startLsn, BigInt(size - OVERLAP_BYTES));
  }));

test("planOverlap() looks at the records before a switch, not at the emptiness behind it", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const size = segmentSize(4 * MIB);
    const end = { totalBytes: 24, resourceManager: 0, info: 0x40 };
    const records = [...Array.from({ length: 300 }, () => ({ totalBytes: 5000 })), end];
    const { segments, records: placed } = buildWal({ startLsn: 0n, segmentBytes: size, records });
    await put(disk, "000000010000000000000000", segments[0]!);
    const overlap = await planOverlap(disk, { ...SEARCH, segmentSize: size, startLsn: lsn(BigInt(size)) });
    const endLsn = placed.at(-1)!.endLsn;
    assert.ok(
      overlap !== undefined && overlap.endLsn >= endLsn && overlap.endLsn < endLsn + BigInt(PAGE_BYTES),
    );
    assert.equal(overlap.endLsn - overlap.startLsn, BigInt(OVERLAP_BYTES));
    assert.equal(overlap.startLsn % BigInt(PAGE_BYTES), 0n);
  }));

test("planOverlap() wants nothing where records of the segment come again", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records: recordsOver(2) });
    await put(disk, FIRST, segments[0]!);
    const growing = `inprogress/${SECOND}`;
    for (const path of [growing, `${growing}.saved-1`]) {
      await put(disk, path, segments[1]!);
      assert.equal(await planOverlap(disk, SEARCH), undefined, path);
      await disk.unlink(path);
    }
    // Of another timeline, or without a record that is whole: nothing of it is compared.
    await put(disk, `inprogress/00000002${SECOND.slice(8)}`, segments[1]!);
    await put(disk, growing, segments[1]!.slice(0, 100));
    assert.deepEqual(await planOverlap(disk, SEARCH), WHOLE);
  }));

test("planOverlap() wants all that was received of a damaged segment, and no more", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const end = { totalBytes: 24, resourceManager: 0, info: 0x40 };
    const { segments, records } = buildWal({
      startLsn: START,
      segmentBytes: MIB,
      records: [...recordsOver(1).slice(0, 100), end],
    });
    const damaged = segments[0]!.slice();
    damaged[300_000]! ^= 1;
    await put(disk, FIRST, damaged);
    const overlap = await planOverlap(disk, SEARCH);
    const endLsn = records.at(-1)!.endLsn;
    assert.equal(overlap?.startLsn, START);
    assert.ok(overlap.endLsn >= endLsn && overlap.endLsn < endLsn + BigInt(PAGE_BYTES));
  }));

function recordsOver(segments: number): RecordPlan[] {
  return Array.from({ length: segments * 220 }, () => ({ totalBytes: 5000 }));
}

test("planOverlap() asks for the timeline that the segment is of", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    await put(disk, FIRST, walOfSide(OWN));
    const lineage = parseHistory(
      timelineId(2),
      new TextEncoder().encode("1\t0/400000\tno recovery target\n"),
    );
    assert.deepEqual(await planOverlap(disk, { ...SEARCH, lineage }), WHOLE);
    // The fork lies inside that segment: it is the new timeline's own, and not here.
    const inside = parseHistory(timelineId(2), new TextEncoder().encode("1\t0/380000\tno recovery target\n"));
    assert.equal(await planOverlap(disk, { ...SEARCH, lineage: inside }), undefined);
  }));

test("compareOverlap() takes the same bytes, and those of a segment that went meanwhile", () =>
  onSimDisk(async ({ disk, sim }) => {
    await prepare(disk);
    const own = walOfSide(OWN);
    await compare(disk, own);
    await put(disk, FIRST, own);
    await compare(disk, own);
    const startLsn = lsn(START + BigInt(10 * PAGE_BYTES)) as Lsn;
    await compare(disk, own.subarray(10 * PAGE_BYTES), { ...WHOLE, startLsn });
    assert.deepEqual(sim.names("conflicts"), []);
    assert.deepEqual(sim.names("inprogress"), []);
  }));

async function refusal(disk: Disk, bytes: Uint8Array, overlap = WHOLE): Promise<string> {
  let message = "";
  await assert.rejects(compare(disk, bytes, overlap), (error: Error) => {
    assert.ok(error instanceof ArchiveConflictError, error.stack);
    message = error.message;
    return true;
  });
  return message;
}

test("P4: a server whose records end at the same LSNs is found at the first byte that differs", () =>
  onSimDisk(async (machine) => {
    const { disk, sim } = machine;
    await prepare(disk);
    const [own, other] = [walOfSide(OWN), walOfSide(OTHER)];
    await put(disk, FIRST, own);
    const start = 80 * PAGE_BYTES;
    const overlap = { ...WHOLE, startLsn: lsn(START + BigInt(start)) };
    const message = await refusal(disk, other.subarray(start), overlap);
    assert.match(
      message,
      new RegExp(`^Cannot go on behind ${FIRST}: the server at db2:5432 has other WAL there`),
    );
    const first = own.findIndex((byte, index) => byte !== other[index]);
    const differenceLsn = (START + BigInt(first)).toString(16).toUpperCase();
    assert.ok(message.includes(`they differ first at 0/${differenceLsn}; `), message);
    assert.match(
      message,
      /there the archive has a record of Heap at 0\/3[0-9A-F]+ \(5000 bytes, transaction 5000, after .*\), the server a record of Heap at 0\/3[0-9A-F]+ \(5000 bytes, transaction 9000, /,
    );
    assert.match(
      message,
      /the last commit before that, which both have, is of 2026-11-25 09:00:10\+00 \(transaction 700 at/,
    );
    assert.match(
      message,
      /the newest commit that the archive shows after it is of 2026-11-25 09:00:20\+00 \(transaction 5000/,
    );
    assert.match(
      message,
      /the newest commit that the server shows after it is of 2026-11-25 09:00:40\+00 \(transaction 9000/,
    );
    assert.match(
      message,
      /nothing was overwritten.* is kept as "\/archive\/conflicts\/.*correct the connection string.*new archive/,
    );
    const [kept = ""] = sim.names("conflicts");
    assert.match(kept, new RegExp(`^${FIRST}-[0-9a-f]{8}$`));
    const want = new Uint8Array(MIB);
    want.set(other.subarray(start), start);
    assert.deepEqual(sim.file(`conflicts/${kept}`)?.content, want);
    assert.deepEqual(sim.file(FIRST)?.content, own);
    assert.deepEqual(sim.names("inprogress"), []);
    // What is kept survives a power cut, and a second time nothing is added.
    const again = machine.restart("power cut");
    assert.deepEqual(sim.file(`conflicts/${kept}`)?.content, want);
    await refusal(again, other.subarray(start), overlap);
    assert.deepEqual(sim.names("conflicts"), [kept]);
  }));

test("P4: a compressed segment is compared with what the server sends too", () =>
  onSimDisk(async ({ disk, sim }) => {
    await prepare(disk);
    const compressor = new PieceCompressor({ format: FORMAT_OF_FORM[".zst"], level: 1 });
    const compressed = Buffer.concat([...compressor.push(walOfSide(OWN)), ...compressor.end()]);
    await put(disk, `${FIRST}.zst`, compressed);
    assert.deepEqual(await planOverlap(disk, SEARCH), WHOLE);
    await compare(disk, walOfSide(OWN));
    assert.match(await refusal(disk, walOfSide(OTHER)), /the archive has a record of Heap/);
    assert.equal(sim.names("conflicts").length, 1);
  }));

async function damageTold(disk: Disk, bytes: Uint8Array, overlap = WHOLE): Promise<string> {
  let message = "";
  await assert.rejects(compare(disk, bytes, overlap), (error: Error) => {
    assert.ok(error instanceof CorruptWalError, error.stack);
    message = error.message;
    return true;
  });
  return message;
}

/** Where the bytes of two sides begin to differ, and that of the record after it. */
const SHARED_BYTES = 150 * 5034;

test("rot in the archive's own file is told as damage of it, with what the server has there", () =>
  onSimDisk(async ({ disk, sim }) => {
    await prepare(disk);
    const right = walOfSide(OWN);
    for (const start of [0, 64 * PAGE_BYTES]) {
      const overlap = { ...WHOLE, startLsn: lsn(START + BigInt(start)) };
      // In a record's data, in headers, in the length, in the link, and where the first record compared goes on.
      for (const at of [700_000, ...headerOf(right, 700_000), start + 40]) {
        const rotten = right.slice();
        rotten[at]! ^= 0x10;
        await put(disk, FIRST, rotten);
        const text = `${at} of ${start}`;
        assert.deepEqual((await planOverlap(disk, SEARCH))?.endLsn, NEXT, text);
        const message = await damageTold(disk, right.subarray(start), overlap);
        const place = `0/${(START + BigInt(at)).toString(16).toUpperCase()}`;
        assert.ok(
          message.startsWith(
            `Cannot decode WAL at ${place}: the archive's own file of ${FIRST} is damaged ("/archive/${FIRST}"); `,
          ),
          `${text}: ${message}`,
        );
        assert.match(
          message,
          /the server at db2:5432 a record of (Heap|Transaction) at 0\/3[0-9A-F]+ \(/,
          text,
        );
        assert.doesNotMatch(message, /two servers/);
        assert.match(
          message,
          /nothing was overwritten, .* is kept as "\/archive\/conflicts\/.*walvault verify --archive \/archive; then move "0.* gap heal/,
        );
        assert.deepEqual(sim.file(FIRST)?.content, rotten);
        assert.equal(sim.names("conflicts").length, 1 + Number(start > 0));
        await disk.unlink(FIRST);
      }
    }
  }));

/** Offsets inside the header of the record that holds the byte at `at`: of its length, its link and its CRC. */
function headerOf(wal: Uint8Array, at: number): number[] {
  const view = new DataView(wal.buffer);
  for (let start = at - at % 8;; start -= 8) {
    if (view.getUint32(start, true) === 5000 && view.getUint8(start + 17) === 10) {
      return [start, start + 4, start + 8, start + 20];
    }
  }
}

test("P4: damage before or behind the first difference does not hide that the server went another way", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const other = walOfSide(OTHER);
    // In what both have, and in what only the archive has: before the place where the two part, and behind it.
    for (const at of [100_000, 500_000, SHARED_BYTES + 9000, MIB - 9000]) {
      const own = walOfSide(OWN);
      own[at]! ^= 1;
      await put(disk, FIRST, own);
      const overlap = await planOverlap(disk, SEARCH);
      assert.deepEqual(overlap, WHOLE);
      const message = await refusal(disk, other);
      assert.match(message, /has other WAL there than this archive.*two servers went on from one past/);
      assert.match(message, /there the archive has a record of .*transaction 5000.*, the server a record of/);
      const besides = /besides, the archive's own file may be damaged at (0\/[0-9A-F]+): walvault verify/;
      const damageLsn = (START + BigInt(at)).toString(16).toUpperCase();
      if (at < SHARED_BYTES) assert.equal(besides.exec(message)?.[1], `0/${damageLsn}`);
      else assert.doesNotMatch(message, besides);
      await disk.unlink(FIRST);
    }
  }));

test("what differs and belongs to no record that proves itself is told as just that", () =>
  onSimDisk(async ({ disk }) => {
    await prepare(disk);
    const right = walOfSide(OWN);
    const own = right.slice();
    // The last record goes on in the next segment: its CRC can't be proven here.
    own[MIB - 1]! ^= 1;
    await put(disk, FIRST, own);
    const message = await refusal(disk, right);
    assert.match(
      message,
      /no record of either side that is whole tells the two apart: if the archive's file is damaged/,
    );
  }));

test("a compressed segment that can't be read is told as damage, where the server has it", () =>
  onSimDisk(async ({ disk, sim }) => {
    await prepare(disk);
    const compressor = new PieceCompressor({ format: FORMAT_OF_FORM[".zst"], level: 1 });
    const own = walOfSide(OWN);
    const compressed = Buffer.concat([...compressor.push(own), ...compressor.end()]);
    await put(disk, `${FIRST}.zst`, compressed.subarray(0, compressed.length >>> 1));
    assert.deepEqual(await planOverlap(disk, SEARCH), WHOLE);
    const message = await damageTold(disk, own);
    assert.ok(message.includes(`the archive's own file of ${FIRST} is damaged ("/archive/${FIRST}.zst")`));
    assert.match(message, /the server at db2:5432 has the WAL that is lost in it; nothing was overwritten/);
    const [kept = ""] = sim.names("conflicts");
    assert.deepEqual(sim.file(`conflicts/${kept}`)?.content, own);
  }));
