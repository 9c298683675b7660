import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FORMAT_OF_FORM, PieceCompressor } from "../../lib/archive/compression.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { encodeGapAcceptance, encodeGapRecord, encodeGapWithdrawal } from "../../lib/archive/gaps.ts";
import { buildIndex } from "../../lib/archive/index.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeSegmentIndex, type SegmentIndex } from "../../lib/archive/segment_index.ts";
import { ArchiveDirectory } from "../../lib/restore/archive_directory.ts";
import { fetchFile, prepareRestore } from "../../lib/restore/fetch_file.ts";
import { parseRequestedName } from "../../lib/restore/requested_file.ts";
import { obstacleOf } from "../../lib/restore/obstacle.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { cutAt, FIRST, lastEnd, nameOf, QUICK, Scene, scenery, SEGMENT_SIZE } from "./restore_scene.ts";

const LAST = FIRST + 3;
const { segments, ends } = scenery();
const END = ends.at(-1)!;
/** Of another server that was promoted to the same timeline. */
const other = scenery({ seed: 1 });

/** Without the megabytes of a difference in the message. */
function assertBytes(actual: Uint8Array | undefined, expected: Uint8Array | undefined): void {
  assert.ok(actual !== undefined && expected !== undefined, "nothing is there");
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assert.ok(at === -1 && actual.length === expected.length, `${actual.length} bytes, other at ${at}`);
}

async function refused(scene: Scene, name: string, obstacle: string, text: RegExp): Promise<void> {
  const error = await scene.fetch(name).then(
    (outcome) => assert.fail(`it answered ${JSON.stringify(outcome, (_, value) => String(value))}`),
    (error) => error as Error,
  );
  assert.equal(obstacleOf(error), obstacle, error.stack);
  assert.match([error.message, (error.cause as Error | undefined)?.message].join(": "), text);
  assert.deepEqual(scene.walNames.filter((file) => file.startsWith("RECOVERY")), [], "something is left");
}

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice();
  copy[at]! ^= 0x40;
  return copy;
}

test("a published segment is delivered whole, and nothing else is left", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.own("RECOVERYXLOG.tmp", "what a killed call left");
  for (let index = 0; index < 3; index++) {
    assert.deepEqual(await scene.fetch(nameOf(FIRST + index)), {
      kind: "delivered",
      path: nameOf(FIRST + index),
    });
    assertBytes(scene.target, segments[index]);
  }
  assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
});

test("the tail is delivered up to its last record, the rest zero", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const name = nameOf(LAST);
  assert.deepEqual(await scene.fetch(name, "withheld"), { kind: "absent", reason: "a tail is withheld" });
  const outcome = await scene.fetch(name);
  assert.deepEqual(outcome, { kind: "tail", path: `inprogress/${name}`, endLsn: END });
  assertBytes(scene.target, segments[3]);
  assert.equal((await scene.fetch(nameOf(LAST + 1))).kind, "absent");
});

test("the tail may end anywhere: what is not proven is not delivered", async () => {
  const name = nameOf(LAST);
  const start = BigInt(LAST * MIB);
  for (const cut of [start + 40n, start + 5000n, start + 8192n, start + 8200n, start + 100_001n, END - 8n]) {
    using scene = new Scene();
    scene.fill(segments, 3);
    scene.put(`inprogress/${name}`, cutAt(segments[3]!, LAST, cut));
    const outcome = await scene.fetch(name);
    const end = lastEnd(ends, cut);
    if (outcome.kind === "absent") {
      assert.ok(end <= start, `cut at ${cut - start}`);
      continue;
    }
    assert.equal(outcome.kind, "tail");
    const delivered = scene.target!;
    const bytes = Math.max(0, Number(end - start));
    assertBytes(delivered.subarray(0, bytes), segments[3]!.subarray(0, bytes));
    assert.equal(delivered.length, MIB);
    const cutBytes = Number(cut - start);
    assert.ok(delivered.subarray(cutBytes).every((byte) => byte === 0));
  }
});

test("the server's own file counts: the tail never takes its place unless it goes further", async () => {
  const name = nameOf(LAST);
  const between = lastEnd(ends, END - 20_000n);
  for (
    const [own, tail] of [
      [undefined, true],
      [cutAt(segments[3]!, LAST, between), true],
      [segments[3]!, false],
      [cutAt(segments[3]!, LAST, END - 8n), true],
      // A recycled file holds WAL of another place.
      [segments[0]!, true],
      [new Uint8Array(MIB), true],
    ] as const
  ) {
    using scene = new Scene();
    scene.fill(segments, 3);
    if (own !== undefined) scene.own(name, own);
    const outcome = await scene.fetch(name);
    assert.equal(outcome.kind, tail ? "tail" : "absent");
    if (!tail) assert.deepEqual(scene.walNames, [name]);
  }
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.put(`inprogress/${name}`, cutAt(segments[3]!, LAST, between));
  scene.own(name, segments[3]!);
  assert.deepEqual(await scene.fetch(name), { kind: "absent", reason: "the server's own copy goes as far" });
});

test("of several copies the one that goes furthest counts, and all must be of the same WAL", async () => {
  const name = nameOf(LAST);
  const shorter = cutAt(segments[3]!, LAST, lastEnd(ends, END - 100_000n));
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.put(`inprogress/${name}`, shorter);
  scene.put(`inprogress/${name}.saved-1`, segments[3]!);
  assert.deepEqual(await scene.fetch(name), {
    kind: "tail",
    path: `inprogress/${name}.saved-1`,
    endLsn: END,
  });
  scene.put(`inprogress/${name}.saved-2`, new Uint8Array(MIB));
  assert.equal((await scene.fetch(name)).kind, "tail");
  scene.put(`inprogress/${name}.saved-3`, cutAt(other.segments[3]!, LAST, other.ends.at(-1)! - 200_000n));
  await refused(scene, name, "damage", /differ, first in the page at 0\/6/);
});

test("a complete segment that is not yet published is delivered, whatever comes after it", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.remove(nameOf(FIRST + 1));
  scene.put(`inprogress/${nameOf(FIRST + 1)}.saved-1`, segments[1]!);
  const outcome = await scene.fetch(nameOf(FIRST + 1));
  assert.deepEqual(outcome, { kind: "delivered", path: `inprogress/${nameOf(FIRST + 1)}.saved-1` });
  assertBytes(scene.target, segments[1]);
});

test("a hole is never the end", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const name = nameOf(FIRST + 1);
  scene.remove(name);
  await refused(
    scene,
    name,
    "hole",
    /000000010000000000000004 is not there, but 00000001000000000000000[56] of the same/,
  );
  // The beginning of it is no better.
  scene.put(`inprogress/${name}`, cutAt(segments[1]!, FIRST + 1, BigInt((FIRST + 1) * MIB + 500_000)));
  await refused(scene, name, "hole", /is there only up to 0\/47/);
  await refused(scene, nameOf(FIRST - 1), "hole", /is not there, but/);
  // Only zeros come after: nothing.
  scene.remove(nameOf(FIRST + 2));
  scene.put(`inprogress/${nameOf(LAST)}`, new Uint8Array(MIB));
  assert.equal((await scene.fetch(name)).kind, "tail");
  // The server has it whole: it needs no more from here.
  scene.put(nameOf(FIRST + 2), segments[2]!);
  scene.own(name, segments[1]!);
  assert.deepEqual(await scene.fetch(name), { kind: "absent", reason: "the server's own copy is whole" });
  scene.own(name, flipped(segments[1]!, 500_000));
  await refused(scene, name, "hole", /is there only up to/);
});

test("a recorded gap is the end only for who says so: up to what was received of the segment where it begins", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const name = nameOf(FIRST + 1);
  scene.remove(name);
  const untilGap = (file: string) => scene.fetch(file, "allowed", { untilGap: true });
  // No line tells of it: nobody has looked whether a server still has it.
  await assert.rejects(untilGap(name), /is not there, but/);
  const at = (number: number) => lsn(BigInt(number * MIB));
  const range = { timeline: timelineId(1), startLsn: at(FIRST + 1), endLsn: at(FIRST + 2) };
  const told = { recordedAt: "now", reason: "", server: "", answer: "" };
  scene.put("gaps.jsonl", encodeGapRecord({ ...range, ...told }));
  assert.deepEqual(await untilGap(name), { kind: "absent", reason: "a gap begins here" });
  const copy = cutAt(segments[1]!, FIRST + 1, BigInt((FIRST + 1) * MIB + 500_000));
  scene.put(`inprogress/${name}`, copy);
  const outcome = await untilGap(name);
  assert.equal(outcome.kind, "tail");
  await refused(scene, name, "hole", /is there only up to 0\/47/);
  // What the server has itself and goes further is not put out of its way.
  scene.own(name, segments[1]!);
  assert.deepEqual(await untilGap(name), { kind: "absent", reason: "the server's own copy goes as far" });
  // Damage stays damage, and another hole stays one.
  scene.put(`inprogress/${name}`, flipped(segments[1]!, 300_000));
  await assert.rejects(untilGap(name), /is damaged/);
  scene.remove(nameOf(FIRST + 2));
  await assert.rejects(untilGap(nameOf(FIRST + 2)), /is not there, but/);
});

test("a recorded gap is never the end, though nothing has come from behind it", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const at = (number: number) => lsn(BigInt(number * MIB));
  const range = { timeline: timelineId(1), startLsn: at(LAST), endLsn: at(LAST + 2) };
  const record = { ...range, recordedAt: "now", reason: "", server: "", answer: "" };
  assert.equal((await scene.fetch(nameOf(LAST))).kind, "tail");
  assert.deepEqual(await scene.fetch(nameOf(LAST + 1)), { kind: "absent", reason: "past the end" });
  scene.put("gaps.jsonl", encodeGapRecord(record));
  await refused(scene, nameOf(LAST), "hole", /is there only up to 0\/\S+ \("\S+"\), but more was written/);
  await refused(
    scene,
    nameOf(LAST + 1),
    "hole",
    /is not there, but more was written, as gaps.jsonl tells/,
  );
  assert.equal((await scene.fetch(nameOf(LAST), "allowed", { untilGap: true })).kind, "tail");
  assert.equal((await scene.fetch(nameOf(LAST + 2))).kind, "absent");
  // Given up, it is missing all the same; taken back, it never was.
  const acceptance = { ...range, acceptedAt: "now", acceptedBy: "", reason: "" };
  scene.put("gaps.jsonl", encodeGapAcceptance(acceptance));
  await refused(scene, nameOf(LAST), "hole", /but more was written/);
  scene.put("gaps.jsonl", new Uint8Array([...encodeGapRecord(record), ...encodeGapWithdrawal(record)]));
  assert.equal((await scene.fetch(nameOf(LAST))).kind, "tail");
  // What a newer program wrote proves nothing.
  scene.put("gaps.jsonl", new TextEncoder().encode('{"walvault":"gap","version":99}\n'));
  await refused(
    scene,
    nameOf(LAST),
    "outage",
    /Cannot tell whether 0000000100000000000000\w+ was ever written/,
  );
});

test("a backup label shows that WAL was written where the backup began", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const label = `${nameOf(LAST, 1)}.00000028.backup`;
  scene.put(label, "");
  assert.equal((await scene.fetch(nameOf(LAST))).kind, "tail");
  fs.rmSync(join(scene.archive, `inprogress/${nameOf(LAST)}`));
  await refused(scene, nameOf(LAST), "hole", /is not there, but a backup began at 0\/600028/);
  scene.remove(label);
  assert.equal((await scene.fetch(nameOf(LAST))).kind, "absent");
  scene.put(`${nameOf(LAST + 4)}.00000028.backup`, "");
  await refused(
    scene,
    nameOf(LAST),
    "hole",
    /is not there, but 00000001000000000000000A of the same timeline/,
  );
  scene.put(`${nameOf(LAST, 2)}.00000028.backup`, "");
  await refused(scene, "00000002.history", "hole", /but timeline 2 is/);
});

test("damage is never the end", async () => {
  const name = nameOf(FIRST + 1);
  const damages: readonly (readonly [bytes: Uint8Array, text: RegExp])[] = [
    [flipped(segments[1]!, 1), /page magic 0x91/],
    [flipped(segments[1]!, 2), /page flags 0x43/],
    [segments[1]!.slice().fill(0, 2, 4), /short page header/],
    [flipped(segments[1]!, 4), /a page of timeline 65, want 1/],
    [flipped(segments[1]!, 9), /page address/],
    [flipped(segments[1]!, 25), /system identifier/],
    [flipped(segments[1]!, 33), /segment size/],
    [flipped(segments[1]!, 37), /page size/],
    [flipped(segments[1]!, 8192 * 5 + 9), /page address/],
    [segments[1]!.subarray(0, MIB - 1), /1048575 bytes, want 1048576/],
    [new Uint8Array(0), /0 bytes, want/],
    [new Uint8Array(MIB), /short page header|page address/],
    [new Uint8Array([...segments[1]!, 0]), /more than 1048576/],
    [segments[0]!, /page address 0\/300000, want its own/],
    [segments[1]!.slice().fill(0, 8192 * 9, 8192 * 10), /an empty page, with more WAL/],
    [segments[1]!.slice().fill(0, 8192 * 9), /an empty page, and no XLOG_SWITCH before it/],
  ];
  for (const [bytes, text] of damages) {
    using scene = new Scene();
    scene.fill(segments, 3);
    scene.put(name, bytes);
    await refused(scene, name, "damage", text);
  }
});

test("a changed byte inside a record is found, unless only pages are looked at", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const name = nameOf(FIRST + 1);
  scene.put(name, flipped(segments[1]!, 500_000));
  assert.equal((await scene.fetch(name, "allowed", { proof: "pages" })).kind, "delivered");
  await refused(scene, name, "damage", /CRC 0x[0-9A-F]+, want/);
  assert.deepEqual(scene.walNames, []);
});

test("a changed byte in the tail is damage, what a power cut lost of it is its end", async () => {
  const name = nameOf(LAST);
  const start = LAST * MIB;
  const middle = Number(lastEnd(ends, END - 200_000n)) - start;
  for (const at of [1, 9, 30, middle + 9, middle + 30, 8192 * 20 + 9]) {
    using scene = new Scene();
    scene.fill(segments, 3);
    scene.put(`inprogress/${name}`, flipped(segments[3]!, at));
    await refused(scene, name, "damage", /is damaged: /);
  }
  using scene = new Scene();
  scene.fill(segments, 3);
  const sector = Math.ceil(middle / 512) * 512;
  scene.put(`inprogress/${name}`, segments[3]!.slice().fill(0, sector, sector + 512));
  const outcome = await scene.fetch(name);
  assert.equal(outcome.kind, "tail");
  assert.ok(outcome.kind === "tail" && Number(outcome.endLsn) - start <= sector);
  assert.ok(
    scene.target!.subarray(sector + 16384).every((byte) => byte === 0),
    "behind the end something is left",
  );
  // The record at the very end is cut off: nobody was promised it.
  scene.put(`inprogress/${name}`, flipped(segments[3]!, Number(END) - start - 100));
  assert.equal((await scene.fetch(name)).kind, "tail");
});

test("after an XLOG_SWITCH the rest of a segment is empty", async () => {
  const { buildWal } = await import("../wal/wal_builder.ts");
  const records = [{ totalBytes: 5000 }, { totalBytes: 24, resourceManager: 0, info: 0x40 }, {
    totalBytes: 9000,
  }];
  const built = buildWal({ startLsn: BigInt(FIRST * MIB), segmentBytes: MIB, records });
  using scene = new Scene();
  scene.fill(built.segments, 1);
  assert.equal((await scene.fetch(nameOf(FIRST))).kind, "delivered");
  scene.put(nameOf(FIRST), flipped(built.segments[0]!, 5050));
  await refused(scene, nameOf(FIRST), "damage", /no XLOG_SWITCH/);
});

test("a fork decides what is the end, and what came before", async () => {
  using scene = new Scene();
  const fork = lastEnd(ends, END - 100_000n);
  scene.fill(segments, 3);
  const newer = scenery({ timeline: 2, segments: 5 });
  const name = nameOf(LAST);
  scene.put("00000002.history", `1\t0/${fork.toString(16).toUpperCase()}\tno recovery target specified\n`);
  // Its first segment is not there, not even in progress.
  await refused(
    scene,
    nameOf(LAST, 2),
    "hole",
    /is not there, but timeline 2 began only at 0\/6/,
  );
  // Up to the fork its bytes are those of the old timeline, and these do not reach it.
  scene.put(`inprogress/${nameOf(LAST, 2)}`, cutAt(newer.segments[3]!, LAST, BigInt(LAST * MIB + 65_536)));
  await refused(
    scene,
    nameOf(LAST, 2),
    "hole",
    /is there only up to 0\/6[0-9A-F]+ .*, but timeline 2 began only at 0\/6/,
  );
  scene.put(`inprogress/${nameOf(LAST, 2)}`, newer.segments[3]!);
  assert.equal((await scene.fetch(nameOf(LAST, 2))).kind, "delivered");
  assert.deepEqual(await scene.fetch(nameOf(LAST - 1, 2)), { kind: "absent", reason: "before the fork" });
  assert.deepEqual(await scene.fetch(nameOf(LAST + 1, 2)), { kind: "absent", reason: "past the end" });
  // The old timeline's end may be further than the fork; shorter it may not be.
  assert.equal((await scene.fetch(name)).kind, "tail");
  scene.put(`inprogress/${name}`, cutAt(segments[3]!, LAST, lastEnd(ends, fork - 1n)));
  await refused(scene, name, "hole", /timeline 2 left timeline 1 only at 0\/6/);
  scene.remove(`inprogress/${name}`);
  await refused(scene, name, "hole", /is not there, but timeline 2 left/);
  scene.put("00000002.history", "1\t0/600000\tat a boundary\n");
  assert.deepEqual(await scene.fetch(name), { kind: "absent", reason: "past the end" });
  for (const text of ["", "1\t0/6", "1\t0/6000000", "2\t0/600000\tx\n", "nonsense\n"]) {
    scene.put("00000002.history", text);
    await refused(scene, name, "damage", /00000002\.history/);
    await refused(scene, "00000002.history", "damage", /00000002\.history/);
  }
});

test("a standby never gets WAL of its old timeline past the fork, whoever knows of the new one", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const forkAt = (fork: bigint) => `1\t0/${fork.toString(16).toUpperCase()}\tno recovery target specified\n`;
  const inside = nameOf(FIRST + 2);
  scene.put("00000002.history", forkAt(BigInt((FIRST + 2) * MIB + 500_000)));
  assert.equal((await scene.fetch(inside)).kind, "delivered");
  fs.writeFileSync(join(scene.data, "standby.signal"), "");
  const text = /timeline 2 left timeline 1 at 0\/57A120, and it goes further/;
  for (const known of ["in the archive", "in pg_wal"]) {
    if (known === "in pg_wal") {
      scene.own("00000002.history", forkAt(BigInt((FIRST + 2) * MIB + 500_000)));
      scene.remove("00000002.history");
    }
    assert.equal((await scene.fetch(nameOf(FIRST + 1))).kind, "delivered");
    await refused(scene, inside, "outage", text);
    await refused(scene, nameOf(LAST), "outage", text);
    scene.remove(inside);
    scene.put(`inprogress/${inside}`, segments[2]!);
    await refused(scene, inside, "outage", text);
    scene.remove(`inprogress/${inside}`);
    scene.put(inside, segments[2]!);
  }
  scene.own("00000002.history", forkAt(END));
  assert.equal((await scene.fetch(inside)).kind, "delivered");
  assert.equal((await scene.fetch(nameOf(LAST))).kind, "tail");
  // Of several timelines a server follows the newest that the archive has; its own file tells for sure.
  scene.put("00000002.history", forkAt(BigInt(FIRST * MIB + 8)));
  scene.put("00000003.history", forkAt(BigInt((FIRST + 1) * MIB)));
  assert.equal((await scene.fetch(nameOf(FIRST))).kind, "delivered");
  await refused(scene, nameOf(FIRST + 1), "outage", /timeline 3 left timeline 1 at 0\/400000/);
  // Where it is can't be read: then no copy of it is delivered either.
  scene.put("00000002.history", "1\t0/3");
  scene.put(`inprogress/${nameOf(FIRST + 1)}`, segments[1]!);
  await refused(scene, nameOf(FIRST + 1), "damage", /00000002\.history/);
});

test("the first segment of a timeline begins with pages of the old one, and of no other", async () => {
  using scene = new Scene();
  scene.put("00000003.history", "1\t0/310000\tno recovery target specified\n");
  const name = nameOf(FIRST, 3);
  scene.put(name, segments[0]!);
  assert.equal((await scene.fetch(name)).kind, "delivered");
  scene.put(name, scenery({ timeline: 2 }).segments[0]!);
  await refused(scene, name, "damage", /a page of timeline 2, want 3 or an ancestor of it/);
});

test("histories and backup labels: delivered as they are, absent only where nothing newer is", async () => {
  using scene = new Scene();
  const text = "1\t0/3000000\tno recovery target specified\n";
  assert.deepEqual(await scene.fetch("00000002.history"), { kind: "absent", reason: "never there" });
  scene.fill(segments, 3);
  assert.equal((await scene.fetch("00000002.history")).kind, "absent");
  scene.put("00000003.history", text);
  await refused(scene, "00000002.history", "hole", /00000002\.history: it is not in .*, but timeline 3 is/);
  assert.equal((await scene.fetch("00000003.history")).kind, "delivered");
  assert.equal(new TextDecoder().decode(scene.target), text);
  assert.equal((await scene.fetch("00000004.history")).kind, "absent");
  scene.put(`inprogress/${nameOf(LAST, 4)}`, new Uint8Array(MIB));
  assert.equal((await scene.fetch("00000004.history")).kind, "absent");
  scene.put(`inprogress/${nameOf(LAST, 4)}`, scenery({ timeline: 4 }).segments[3]!);
  await refused(scene, "00000004.history", "hole", /but timeline 4 is/);
  scene.own("00000004.history", text);
  assert.equal((await scene.fetch("00000004.history")).kind, "absent");
  const label = `${nameOf(FIRST)}.00000028.backup`;
  assert.equal((await scene.fetch(label)).kind, "absent");
  scene.put(label, "START WAL LOCATION\n");
  assert.equal((await scene.fetch(label)).kind, "delivered");
});

test("another cluster's archive is refused for every kind of file, an archive that is not there as well", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.put("00000002.history", "1\t0/6000000\tx\n");
  const names = [
    nameOf(FIRST),
    nameOf(LAST),
    "00000002.history",
    "00000005.history",
    `${nameOf(FIRST)}.00000028.backup`,
  ];
  const control = join(scene.data, "global/pg_control");
  const bytes = new Uint8Array(8192);
  new DataView(bytes.buffer).setBigUint64(0, SYSTEM_IDENTIFIER + 1n, true);
  fs.writeFileSync(control, bytes);
  for (const name of names) {
    await refused(scene, name, "wrong cluster", /system identifier 7296712146080318241/);
  }
  fs.rmSync(control);
  assert.equal((await scene.fetch(nameOf(FIRST))).kind, "delivered");
  const away = `${scene.archive}.away`;
  fs.renameSync(scene.archive, away);
  for (const name of names) await refused(scene, name, "outage", /no such directory/);
  fs.mkdirSync(scene.archive);
  for (const name of names) await refused(scene, name, "outage", /no archive\.json and no WAL/);
  fs.rmdirSync(scene.archive);
  fs.renameSync(away, scene.archive);
  scene.remove("archive.json");
  await refused(scene, nameOf(LAST), "outage", /it has no archive\.json, but "inprogress"/);
  scene.put("archive.json", "{}");
  await refused(scene, nameOf(FIRST), "damage", /Cannot read the archive/);
});

test("a directory of pg_receivewal is read as it is", async () => {
  using scene = new Scene({ identity: "none" });
  scene.put(nameOf(FIRST), segments[0]!);
  scene.put(nameOf(FIRST + 1), segments[1]!);
  scene.put(`${nameOf(FIRST + 2)}.partial`, segments[2]!.subarray(0, 300_000));
  assert.equal((await scene.fetch(nameOf(FIRST))).kind, "delivered");
  const outcome = await scene.fetch(nameOf(FIRST + 2));
  const end = lastEnd(ends, BigInt((FIRST + 2) * MIB + 300_000));
  assert.equal(outcome.kind, "tail");
  assert.ok(
    outcome.kind === "tail" && outcome.endLsn >= end && outcome.path === `${nameOf(FIRST + 2)}.partial`,
  );
  assert.equal(scene.target!.length, MIB);
  assert.equal((await scene.fetch(nameOf(FIRST + 3))).kind, "absent");
  assert.equal((await scene.fetch("00000002.history")).kind, "absent");
  // `walvault as pg_receivewal` moves aside what it had, as a receiver of an archive does.
  const partial = join(scene.archive, `${nameOf(FIRST + 2)}.partial`);
  fs.renameSync(partial, `${partial}.saved-1`);
  for (const begun of [undefined, new Uint8Array(MIB)]) {
    if (begun !== undefined) fs.writeFileSync(partial, begun);
    const saved = await scene.fetch(nameOf(FIRST + 2));
    assert.ok(saved.kind === "tail" && saved.path === `${nameOf(FIRST + 2)}.partial.saved-1`);
  }
  scene.remove(nameOf(FIRST + 1));
  await refused(scene, nameOf(FIRST + 1), "hole", /is not there, but/);
  scene.put(nameOf(FIRST + 1), flipped(segments[1]!, 9));
  await refused(scene, nameOf(FIRST + 1), "damage", /page address/);
  const control = new Uint8Array(8);
  fs.writeFileSync(join(scene.data, "global/pg_control"), control);
  for (const name of [nameOf(FIRST), nameOf(FIRST + 2), nameOf(FIRST + 3), "00000002.history"]) {
    await refused(scene, name, "wrong cluster", /system identifier/);
  }
});

function compressed(form: ".zst" | ".gz" | ".lz4", bytes: Uint8Array): Uint8Array {
  const compressor = new PieceCompressor({ format: FORMAT_OF_FORM[form], level: 1 });
  const pieces = [...compressor.push(bytes), ...compressor.end()];
  return new Uint8Array(Buffer.concat(pieces));
}

test("compressed segments are delivered as the server wrote them, and their damage is found", async () => {
  for (const form of [".zst", ".gz", ".lz4"] as const) {
    for (const identity of ["archive.json", "none"] as const) {
      using scene = new Scene({ identity });
      for (let index = 0; index < 3; index++) {
        scene.put(nameOf(FIRST + index) + form, compressed(form, segments[index]!));
      }
      const name = nameOf(FIRST + 1);
      assert.deepEqual(await scene.fetch(name), { kind: "delivered", path: name + form });
      assertBytes(scene.target, segments[1]);
      assert.equal((await scene.fetch(nameOf(LAST))).kind, "absent");
      const good = compressed(form, segments[1]!);
      for (const share of [0, 0.001, 0.3, 0.9, 1]) {
        const length = Math.min(good.length - 1, Math.floor(good.length * share));
        scene.put(name + form, good.subarray(0, length));
        await refused(scene, name, "damage", /Cannot read|Cannot deliver/);
      }
      let found = 0;
      for (let step = 1; step <= 9; step++) {
        scene.put(name + form, flipped(good, Math.floor(good.length * step / 10)));
        const outcome = await scene.fetch(name).catch((error) => error as Error);
        if (outcome instanceof Error) {
          assert.equal(obstacleOf(outcome), "damage", outcome.stack);
          assert.equal(scene.target, undefined);
          found++;
        } else {
          // Some bits of a compressed file mean nothing.
          assertBytes(scene.target, segments[1]);
        }
      }
      assert.ok(found > 3, `${found} of 9 changes found`);
      scene.put(name + form, compressed(form, segments[1]!.subarray(0, MIB - 8192)));
      await refused(scene, name, "damage", /bytes, want/);
      scene.put(name + form, compressed(form, flipped(segments[1]!, 9)));
      await refused(scene, name, "damage", /page address/);
      scene.remove(name + form);
      await refused(scene, name, "hole", /is not there, but/);
    }
  }
});

test("a damaged segment is passed over where the same is there in another form, or complete in progress", async () => {
  const name = nameOf(FIRST + 1);
  const cut = compressed(".zst", segments[1]!).subarray(0, -1);
  const good: readonly (readonly [path: string, bytes: Uint8Array])[] = [
    [`${name}.gz`, compressed(".gz", segments[1]!)],
    [`${name}.zst`, compressed(".zst", segments[1]!)],
    [`inprogress/${name}`, segments[1]!],
    [`inprogress/${name}.saved-2`, segments[1]!],
  ];
  for (const damaged of [flipped(segments[1]!, 500_000), segments[1]!.subarray(1), cut]) {
    for (const [path, bytes] of good) {
      using scene = new Scene();
      scene.fill(segments, 3);
      const damagedPath = damaged === cut ? `${name}.zst` : name;
      if (path === damagedPath) continue;
      if (damagedPath !== name) scene.remove(name);
      scene.put(damagedPath, damaged);
      scene.put(path, bytes);
      const outcome = await scene.fetch(name);
      assert.ok(outcome.kind === "delivered" && outcome.path === path, path);
      assert.match(outcome.damage?.message ?? "", /Cannot (read|deliver) /);
      assertBytes(scene.target, segments[1]);
      scene.put(path, path.startsWith("inprogress/") ? bytes.slice().fill(0, 900_000) : bytes.subarray(1));
      await refused(scene, name, "damage", new RegExp(`Cannot (read|deliver) .*${damagedPath}`));
    }
  }
});

test("a compressed partial of pg_receivewal is read as far as it goes", async () => {
  for (const form of [".gz", ".lz4"] as const) {
    using scene = new Scene({ identity: "none" });
    scene.put(nameOf(FIRST) + form, compressed(form, segments[0]!));
    const name = nameOf(FIRST + 1);
    const whole = compressed(form, segments[1]!);
    let furthest = 0n;
    for (const share of [0.02, 0.5, 0.95]) {
      scene.put(`${name}${form}.partial`, whole.subarray(0, Math.floor(whole.length * share)));
      const outcome = await scene.fetch(name);
      if (outcome.kind === "absent") continue;
      assert.ok(outcome.kind === "tail" && outcome.endLsn > furthest, JSON.stringify(outcome.kind));
      furthest = outcome.endLsn;
      const bytes = Number(furthest) - (FIRST + 1) * MIB;
      assertBytes(scene.target!.subarray(0, bytes), segments[1]!.subarray(0, bytes));
      assert.equal(scene.target!.length, MIB);
    }
    assert.ok(furthest > 0n || form === ".lz4");
    // It alone tells of its timeline, and of what segments are like.
    scene.remove(nameOf(FIRST) + form);
    assert.equal((await scene.fetch("00000002.history")).kind, "absent");
    scene.put(`${nameOf(FIRST + 1, 2)}${form}.partial`, whole.subarray(0, 10));
    await refused(scene, "00000002.history", "hole", /but timeline 2 is/);
    scene.remove(`${name}${form}.partial`);
    await refused(scene, "00000002.history", "hole", /but timeline 2 is/);
    scene.remove(`${nameOf(FIRST + 1, 2)}${form}.partial`);
    scene.put(nameOf(FIRST) + form, compressed(form, segments[0]!));
    // Complete, and only the name is missing.
    scene.put(`${name}${form}.partial`, whole);
    assert.equal((await scene.fetch(name)).kind, "delivered");
    assertBytes(scene.target, segments[1]);
  }
});

test("a receiver at work moves files while they are looked at: no answer is wrong, and none is lost", async () => {
  using scene = new Scene();
  scene.fill(segments, 2);
  const name = nameOf(FIRST + 2);
  const growing = `inprogress/${name}`;
  scene.put(growing, segments[2]!.slice().fill(0, 400_000));
  const { archive } = scene;
  /** Runs a change right before the given look into the archive. */
  const meanwhile = async (step: number, change: () => void) => {
    let looks = 0;
    const disk = openDirectDisk(archive);
    const counted = new Proxy(disk, {
      get(target, key: keyof typeof disk) {
        const value = target[key];
        if (typeof value !== "function") return value;
        return (...words: never[]) => {
          if (++looks === step) change();
          return (value as (...words: never[]) => unknown).apply(target, words);
        };
      },
    });
    const server = {
      data: openDirectDisk(scene.data),
      wal: openDirectDisk(join(scene.data, "pg_wal")),
      targetName: "RECOVERYXLOG",
    };
    const restore = await prepareRestore(await ArchiveDirectory.open(counted), server, QUICK);
    const outcome = await fetchFile(restore, parseRequestedName(name)!, { tail: "allowed" });
    return { outcome, looks };
  };
  const saved = `${growing}.saved-1`;
  const path = (file: string) => join(archive, file);
  const changes: Readonly<Record<string, readonly [change: () => void, undo: () => void]>> = {
    published: [
      () => {
        fs.writeFileSync(path(growing), segments[2]!);
        fs.linkSync(path(growing), path(name));
        fs.rmSync(path(growing));
      },
      () => fs.renameSync(path(name), path(growing)),
    ],
    "moved aside": [
      () => {
        fs.linkSync(path(growing), path(saved));
        fs.rmSync(path(growing));
      },
      () => fs.renameSync(path(saved), path(growing)),
    ],
    "moved aside, and received again": [
      () => {
        fs.renameSync(path(growing), path(saved));
        fs.writeFileSync(path(growing), new Uint8Array(MIB));
      },
      () => fs.renameSync(path(saved), path(growing)),
    ],
  };
  for (const [what, [change, undo]] of Object.entries(changes)) {
    for (let step = 1;; step++) {
      fs.writeFileSync(path(growing), segments[2]!.slice().fill(0, 400_000));
      let changed = false;
      const { outcome, looks } = await meanwhile(step, () => {
        changed = true;
        change();
      });
      assert.ok(
        outcome.kind === "tail" || outcome.kind === "delivered",
        `${what} before look ${step}: ${outcome.kind}`,
      );
      if (outcome.kind === "delivered") assertBytes(scene.target, segments[2]);
      if (changed) undo();
      if (step > looks) break;
      assert.ok(step < 300);
    }
  }
});

test("a growing file that is read while it is written is no damage: the second look finds it whole", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const growing = join(scene.archive, `inprogress/${nameOf(LAST)}`);
  // One page was read before it was written, the pages behind it after.
  for (const [bytes, kind] of [[flipped(segments[3]!, 100_000), "tail"], [segments[3]!, "damage"]] as const) {
    fs.writeFileSync(growing, bytes);
    const server = {
      data: openDirectDisk(scene.data),
      wal: openDirectDisk(join(scene.data, "pg_wal")),
      targetName: "RECOVERYXLOG",
    };
    const written = kind === "tail" ? segments[3]! : flipped(segments[3]!, 100_000);
    const pause = () => Promise.resolve(fs.writeFileSync(growing, written));
    const archive = await ArchiveDirectory.open(openDirectDisk(scene.archive));
    const restore = await prepareRestore(archive, server, { proof: "records", pause });
    const outcome = await fetchFile(restore, parseRequestedName(nameOf(LAST))!, { tail: "allowed" }).then(
      (outcome) => outcome.kind,
      (error) => obstacleOf(error),
    );
    assert.equal(outcome, kind);
  }
});

/** A disk whose listings lack what `lacks` tells: Deno's end without an error where reading a directory fails half way. */
function shortListing(root: string, lacks: (name: string) => boolean): Disk {
  const disk = openDirectDisk(root);
  return {
    ...disk,
    list: async (path) => (await disk.list(path))?.filter((name) => !lacks(name)),
    entries: async (path) => (await disk.entries(path))?.filter(({ name }) => !lacks(name)),
  };
}

test("a listing that ends too early proves nothing", async () => {
  const tail = nameOf(LAST);
  const next = nameOf(FIRST + 2);
  const hole = nameOf(FIRST + 1);
  const scenes: Readonly<
    Record<string, readonly [asked: string, lacks: RegExp, prepare: (scene: Scene) => void]>
  > = {
    "no name at all": [tail, /./, () => {}],
    "no archive.json": [tail, /^archive\.json$/, () => {}],
    "no inprogress": [tail, /^inprogress$/, () => {}],
    "no growing file": [tail, new RegExp(`^${tail}$`), () => {}],
    "no saved copy": [tail, /saved-1$/, (scene) => {
      fs.renameSync(
        join(scene.archive, `inprogress/${tail}`),
        join(scene.archive, `inprogress/${tail}.saved-1`),
      );
    }],
    "no partial file": [tail, /partial$/, (scene) => {
      fs.renameSync(join(scene.archive, `inprogress/${tail}`), join(scene.archive, `${tail}.partial`));
    }],
    "not the next segment": [hole, new RegExp(`^(${next}|${tail})`), (scene) => scene.remove(hole)],
    "not the next segment, compressed": [hole, new RegExp(`^(${next}|${tail})`), (scene) => {
      scene.remove(hole);
      fs.renameSync(join(scene.archive, next), join(scene.archive, `${next}.zst`));
    }],
    "not the next segment, growing": [next, new RegExp(`^${tail}$`), (scene) => scene.remove(next)],
    "not the next history": ["00000002.history", /history$/, (scene) => {
      scene.put("00000003.history", "1\t0/3000000\tno recovery target specified\n");
    }],
  };
  for (const [what, [asked, lacks, prepare]] of Object.entries(scenes)) {
    using scene = new Scene();
    scene.fill(segments, 3);
    prepare(scene);
    const server = {
      data: openDirectDisk(scene.data),
      wal: openDirectDisk(join(scene.data, "pg_wal")),
      targetName: "RECOVERYXLOG",
    };
    const disk = shortListing(scene.archive, (name) => lacks.test(name));
    const restore = await prepareRestore(await ArchiveDirectory.open(disk), server, QUICK);
    const outcome = await fetchFile(restore, parseRequestedName(asked)!, { tail: "allowed" }).then(
      ({ kind }) => kind,
      (error) => obstacleOf(error),
    );
    assert.equal(outcome, "outage", what);
    assert.equal(scene.target, undefined, what);
  }
});

/** Gives the first segment an index, as of `bytes`; what is said in it may be changed before. */
async function putIndex(
  scene: Scene,
  bytes: Uint8Array,
  change: (index: SegmentIndex) => SegmentIndex = (index) => index,
  systemIdentifier = SYSTEM_IDENTIFIER,
  name = nameOf(FIRST),
): Promise<void> {
  const segment = {
    name,
    identity: { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SEGMENT_SIZE },
  };
  const index = await buildIndex(segment, (take) => Promise.resolve(void take(bytes, 0)));
  scene.put(`index/${name}.idx`, encodeSegmentIndex(change({ ...index, systemIdentifier })));
}

test("with an index of it, a damaged segment is refused, and a good one is delivered", async () => {
  const name = nameOf(FIRST);
  for (const at of [60, 8300, MIB - 100]) {
    using scene = new Scene();
    scene.fill(segments, 3);
    await putIndex(scene, segments[0]!);
    assert.deepEqual(await scene.fetch(name), { kind: "delivered", path: name });
    assertBytes(scene.target, segments[0]);
    scene.put(name, flipped(segments[0]!, at));
    await refused(scene, name, "damage", /CRC|no valid record|length|link|other bytes/);
  }
});

test("what no record of a segment proves, its index does: bytes that go on in the next segment", async () => {
  const [before, name] = [nameOf(FIRST), nameOf(FIRST + 1)];
  using scene = new Scene();
  scene.fill(segments, 3);
  // Without one nobody can tell.
  scene.put(before, flipped(segments[0]!, MIB - 100));
  assert.equal((await scene.fetch(before)).kind, "delivered");
  await putIndex(scene, segments[0]!);
  await refused(scene, before, "damage", /other bytes than when its records were read/);
  scene.put(name, flipped(segments[1]!, 100));
  assert.equal((await scene.fetch(name)).kind, "delivered");
  await putIndex(scene, segments[1]!, undefined, SYSTEM_IDENTIFIER, name);
  await refused(scene, name, "damage", /other bytes than when its records were read/);
});

test("a bit that no record covers does no harm, whatever the index says", async () => {
  const plans = [{ totalBytes: 5001 }, { totalBytes: 24, resourceManager: 0, info: 0x40 }];
  const { segments: [only] } = buildWal({ startLsn: BigInt(FIRST * MIB), segmentBytes: MIB, records: plans });
  using scene = new Scene();
  scene.put(nameOf(FIRST), only!);
  await putIndex(scene, only!);
  // Between two records.
  scene.put(nameOf(FIRST), flipped(only!, 40 + 5001));
  assert.equal((await scene.fetch(nameOf(FIRST))).kind, "delivered");
});

test("an index that can't vouch for a segment is none: the records are read", async () => {
  const name = nameOf(FIRST);
  const damaged = flipped(segments[0]!, 8300);
  using scene = new Scene();
  scene.fill(segments, 3);
  scene.put(name, damaged);
  // Made after the damage: the CRC is that of the damaged bytes, and the scan says that they are.
  await putIndex(scene, damaged);
  await refused(scene, name, "damage", /CRC/);
  const sound = (index: SegmentIndex): SegmentIndex => ({
    ...index,
    scan: { ...index.scan, end: "segment-end" },
  });
  // Of another cluster.
  await putIndex(scene, damaged, sound, SYSTEM_IDENTIFIER + 1n);
  await refused(scene, name, "damage", /CRC/);
  // Torn, and no file at all.
  await putIndex(scene, damaged, sound);
  const path = `index/${name}.idx`;
  const whole = new Uint8Array(fs.readFileSync(join(scene.archive, path)));
  for (const length of [0, 100, 383]) {
    scene.put(path, whole.subarray(0, length));
    await refused(scene, name, "damage", /CRC/);
  }
  for (let at = 0; at < 384; at += 5) {
    scene.put(path, flipped(whole, at));
    await refused(scene, name, "damage", /CRC/);
  }
  scene.remove(path);
  fs.mkdirSync(join(scene.archive, path));
  await refused(scene, name, "damage", /CRC/);
  scene.remove(path);
  // Only this shows that the index above would have been believed.
  scene.put(path, whole);
  assert.equal((await scene.fetch(name)).kind, "delivered");
});
