/** `find` on archives made of bytes: what damage does to its answers. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { FIRST, nameOf, Scene } from "../restore/restore_scene.ts";
import { NOON } from "../wal/record_plans.ts";
import { MIB } from "../wal/wal_builder.ts";
import { commits, tellFind } from "./find_scene.ts";
import { statusObject } from "./status_scene.ts";

const { segments, records } = commits();
/** Transactions whose commits begin in a segment. */
const xidsIn = (number: number) =>
  records.filter(({ lsn, xid }) => xid !== undefined && Math.floor(Number(lsn) / MIB) === number)
    .map(({ xid }) => xid!);
const startOf = (number: number) => formatLsn(BigInt(number * MIB) as Lsn);

function filled(): Scene {
  const scene = new Scene();
  scene.fill(segments, 3);
  return scene;
}

test("a record whose CRC is right and whose body is none says nothing, and keeps nobody from the others", async () => {
  // A commit that says that more follows than is there.
  const body = Uint8Array.of(255, 12, ...new Uint8Array(8), 2, 0, 0, 0);
  new DataView(body.buffer).setBigInt64(2, NOON, true);
  const broken = { totalBytes: 24 + body.length, resourceManager: 1, info: 0x80, xid: 999, body };
  const built = commits({ segments: 2, extra: [broken] });
  using scene = new Scene();
  scene.fill(built.segments, 1);
  assert.equal((await tellFind(scene.archive, "--xid=1000")).stop?.xid, 1000);
  assert.equal((await tellFind(scene.archive, "--xid=999")).where, "absent");
  scene.remove("index");
  const { window } = await statusObject(["-d", scene.archive]) as {
    window: { firstCommit?: { xid: number } };
  };
  assert.equal(window.firstCommit?.xid, 1000);
});

test("a segment whose file can't be read is told as damage, and keeps nobody from the others", async () => {
  const forms: readonly ((scene: Scene) => void)[] = [
    (scene) => scene.put(nameOf(FIRST + 1), segments[1]!.subarray(0, 5000)),
    (scene) => {
      scene.remove(nameOf(FIRST + 1));
      scene.put(`${nameOf(FIRST + 1)}.gz`, gzipSync(segments[1]!).subarray(0, 5000));
    },
    (scene) => {
      scene.remove(nameOf(FIRST + 1));
      mkdirSync(join(scene.archive, nameOf(FIRST + 1)));
    },
  ];
  for (const spoil of forms) {
    using scene = filled();
    spoil(scene);
    const before = await tellFind(scene.archive, `--xid=${xidsIn(FIRST).at(-1)}`);
    assert.equal(before.stop?.xid, xidsIn(FIRST).at(-1));
    assert.deepEqual(before.notes, []);
    const behind = await tellFind(scene.archive, `--xid=${xidsIn(FIRST + 2)[2]}`);
    assert.equal(behind.stop?.xid, xidsIn(FIRST + 2)[2]);
    assert.match(behind.notes.map(({ kind, text }) => `${kind}: ${text}`).join(), /^damage: 0.*4 is damaged/);
    assert.ok(behind.notes[0]?.text.includes(startOf(FIRST + 1)));
    assert.equal((await tellFind(scene.archive, `--xid=${xidsIn(FIRST + 1)[2]}`)).where, "absent");
  }
});

test("behind damage, an LSN is answered with the damage, and what is before it with the nearest commit", async () => {
  const spoiledLsn = records.filter(({ lsn }) => lsn > BigInt((FIRST + 1) * MIB) + 500_000n)[0]!.lsn;
  for (const hasIndexes of [false, true]) {
    using scene = filled();
    // Made while all was well.
    if (hasIndexes) await tellFind(scene.archive, "--xid=1");
    const bytes = segments[1]!.slice();
    bytes[Number(spoiledLsn - BigInt((FIRST + 1) * MIB)) + 40]! ^= 1;
    scene.put(nameOf(FIRST + 1), bytes);
    const behind = await tellFind(scene.archive, `--lsn=${formatLsn(spoiledLsn + 100_000n as Lsn)}`);
    assert.equal(behind.where, "damage");
    assert.equal(behind.notes[0]?.kind, "damage");
    assert.ok(behind.notes[0]?.text.includes(formatLsn(spoiledLsn as Lsn)), behind.notes[0]?.text);
    const before = records.filter(({ lsn, xid }) => xid !== undefined && lsn < spoiledLsn).at(-1)!;
    assert.equal(behind.nearest?.xid, before.xid);
    assert.equal(behind.recovery, undefined);
    const front = await tellFind(scene.archive, `--lsn=${formatLsn(before.lsn as Lsn)}`);
    assert.deepEqual(front.notes, []);
    // A later segment can be reached by a backup that began behind the damage.
    const later = await tellFind(
      scene.archive,
      `--lsn=${formatLsn(BigInt((FIRST + 2) * MIB) + 9000n as Lsn)}`,
    );
    assert.equal(later.stop?.kind, "record");
    // An index made before the damage stays, for fetch and verify to see the change by: find does not read what it tells.
    assert.deepEqual(later.notes.map(({ kind }) => kind), hasIndexes ? [] : ["damage"]);
    assert.equal(later.backup?.fromLsn, startOf(hasIndexes ? FIRST : FIRST + 2));
  }
});

test("an LSN behind the last record of a segment that grows is not yet reached", async () => {
  using scene = filled();
  const last = await tellFind(scene.archive, `--lsn=${formatLsn(BigInt((FIRST + 4) * MIB) - 9000n as Lsn)}`);
  assert.equal(last.where, "after");
  assert.deepEqual(last.notes, []);
});

test("an LSN in a segment that is cut short is told as damage", async () => {
  using scene = filled();
  scene.remove(`inprogress/${nameOf(FIRST + 3)}`);
  scene.put(nameOf(FIRST + 2), segments[2]!.subarray(0, 500_000));
  const cut = await tellFind(
    scene.archive,
    `--lsn=${formatLsn(BigInt((FIRST + 2) * MIB) + 600_000n as Lsn)}`,
  );
  assert.equal(cut.where, "damage");
});

test("a base backup must have begun behind the damage before a transaction", async () => {
  using scene = filled();
  const bytes = segments[1]!.slice();
  bytes[500_000]! ^= 1;
  scene.put(nameOf(FIRST + 1), bytes);
  const found = await tellFind(scene.archive, `--xid=${xidsIn(FIRST + 2)[2]}`);
  assert.deepEqual(found.notes.map(({ kind }) => kind), ["damage"]);
  assert.equal(found.backup?.fromLsn, startOf(FIRST + 2));
});
