import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { DamagedFileError } from "../../lib/archive/damaged_file.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { readAhead } from "../../lib/archive/read_ahead.ts";
import { SegmentWriter } from "../../lib/archive/segment_writer.ts";
import { ArchiveConflictError, WrongClusterError } from "../../lib/wal/errors.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { SegmentScanner } from "../../lib/wal/scanner.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { bring, broughtFiles, growingFile, makeArchive } from "./brought_files.ts";
import {
  IDENTITY,
  legAt,
  type Machine,
  MODES,
  NAMES,
  NAMING,
  onSimDisk,
  recordEvents,
  SEGMENT_SIZE,
  START,
  walOf,
} from "./on_sim_disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

const [FIRST = "", SECOND = "", THIRD = ""] = NAMES;
const WAL = walOf({ bytes: 3 * MIB });
const segmentOf = (wal: Uint8Array, index: number) => wal.slice(index * MIB, (index + 1) * MIB);
const SEGMENT = segmentOf(WAL, 0);
const SWITCH = { totalBytes: 24, resourceManager: 0, info: 0x40 };
/** Another server's, which was this one once: the same system identifier, other records. */
const OTHER_WAL = walOf({ bytes: 3 * MIB, seed: 1 });

function names(machine: Machine, directory: string): readonly string[] {
  return machine.sim.names(directory).toSorted();
}

function content(machine: Machine, path: string): Uint8Array | undefined {
  return machine.sim.file(path)?.content;
}

/** Only these, and `archive.json`. */
function assertHolds(machine: Machine, root: readonly string[], inProgress: readonly string[] = []): void {
  assert.deepEqual(names(machine, "."), [...root, "archive.json", "inprogress"].toSorted());
  assert.deepEqual(names(machine, "inprogress"), inProgress);
}

/** The first `bytes` of a segment, as a server leaves it that is in the middle of it. */
function unfinished(bytes: number, wal = WAL): Uint8Array {
  const segment = new Uint8Array(MIB);
  segment.set(wal.subarray(0, bytes));
  return segment;
}

/** Bytes within a record that begins and ends before the last page are not written yet. */
function withHole(segment: Uint8Array): Uint8Array {
  const holed = segment.slice();
  holed.fill(0, 100_000, 100_050);
  return holed;
}

async function receiveSome(machine: Machine, bytes: number, wal = WAL): Promise<SegmentWriter> {
  const zeros = SegmentWriter.zeroPiece(machine.disk);
  const writer = new SegmentWriter(machine.disk, IDENTITY, legAt(), {
    modes: MODES,
    naming: NAMING,
    events: recordEvents(),
    zeros,
  });
  for (let at = 0; at < bytes;) {
    at += await writer.append(wal.subarray(at, Math.min(bytes, at + 60_000)), "sync");
    if (writer.segmentFull) await writer.publish();
  }
  return writer;
}

test("P1: a pushed segment gets its name when it is written and synced, and push answers when that is synced", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    machine.operations.length = 0;
    const accepted = await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    assert.deepEqual(accepted, { outcome: "archived", path: FIRST });
    const important = machine.operations.filter((line) =>
      /^(create|sync|link|unlink|list|rename)/.test(line)
    );
    assert.deepEqual(important, [
      "list inprogress",
      `create inprogress/${FIRST}.push-1`,
      `sync inprogress/${FIRST}.push-1`,
      `link inprogress/${FIRST}.push-1 ${FIRST}`,
      "syncDirectory .",
      `unlink inprogress/${FIRST}.push-1`,
    ]);
    assertHolds(machine, [FIRST]);
    assert.deepEqual(content(machine, FIRST), SEGMENT);
  }));

test("P4: the same segment again is success, and nothing is written", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    machine.kinds.length = 0;
    assert.deepEqual(await bring(machine.disk, FIRST, { [FIRST]: SEGMENT }), {
      outcome: "present",
      path: FIRST,
    });
    assert.ok(machine.kinds.includes("syncDirectory"), "whoever published it may have died before its sync");
    for (const kind of ["create", "write", "link"] as const) assert.ok(!machine.kinds.includes(kind), kind);
  }));

test("P4: other bytes under a published name are refused, both are kept and explained", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    for (const [index, name] of [FIRST, SECOND, THIRD].entries()) {
      await bring(machine.disk, name, { [name]: segmentOf(WAL, index) });
    }
    const other = segmentOf(OTHER_WAL, 1);
    for (let again = 0; again < 2; again++) {
      await assert.rejects(bring(machine.disk, SECOND, { [SECOND]: other }), (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /^Cannot archive .*: the archive has other bytes under this name \("\/archive\/00/,
        );
        assert.match(error.message, /they differ first at 0\/4000/);
        assert.match(
          error.message,
          /the pushed file does not continue this archive's 000000010000000000000003: /,
        );
        assert.match(error.message, /the archive's file continues this archive/);
        assert.match(error.message, /the archive's next segment continues the archive's file/);
        assert.match(error.message, /the archive's next segment does not continue the pushed file/);
        assert.match(
          error.message,
          /nothing was overwritten, the pushed file is kept as "\/archive\/conflicts\/00/,
        );
        return true;
      });
    }
    assert.deepEqual(content(machine, SECOND), segmentOf(WAL, 1));
    const [kept, ...more] = names(machine, "conflicts");
    assert.deepEqual(more, [], "a second refusal of the same file keeps no second copy");
    assert.deepEqual(content(machine, `conflicts/${kept}`), other);
    assert.deepEqual(names(machine, "inprogress"), []);
  }));

test("P4: a conflict names the record on each side", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    await assert.rejects(
      bring(machine.disk, FIRST, { [FIRST]: segmentOf(OTHER_WAL, 0) }),
      new RegExp(
        "they differ first at 0/300028; there the archive's file has a record of Heap at 0/300028 \\(5000 bytes, " +
          "transaction 700, after 0/2FFFC0\\), the pushed file a record of Heap at 0/300028 \\(5008 bytes, " +
          "transaction 700, after 0/2FFFC0\\); " +
          "nothing in the archive tells which one belongs to it",
      ),
    );
  }));

test("P3: a segment that contradicts what is growing is refused", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await (await receiveSome(machine, 400_000)).close();
    await assert.rejects(
      bring(machine.disk, FIRST, { [FIRST]: segmentOf(OTHER_WAL, 0) }),
      /other bytes of it were received before, and are kept as "\/archive\/inprogress\/0+10+3"; they differ first at 0\/300028; there/,
    );
    assert.equal(names(machine, "conflicts").length, 1);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    assert.deepEqual(content(machine, FIRST), SEGMENT);
  }));

test("P5: a segment that does not continue the archive's last one is refused", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    await assert.rejects(
      bring(machine.disk, SECOND, { [SECOND]: segmentOf(OTHER_WAL, 1) }),
      (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /: it does not continue this archive's 000000010000000000000003: its first record at 0\/40/,
        );
        return true;
      },
    );
    assert.equal(names(machine, "conflicts").length, 1);
    assert.deepEqual(names(machine, "inprogress"), []);
    assert.equal(content(machine, SECOND), undefined);
    await bring(machine.disk, SECOND, { [SECOND]: segmentOf(WAL, 1) });
    await bring(machine.disk, THIRD, { [THIRD]: segmentOf(WAL, 2) });
  }));

test("P5: a segment that the archive's next one does not continue is refused", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await bring(machine.disk, SECOND, { [SECOND]: segmentOf(WAL, 1) });
    await assert.rejects(
      bring(machine.disk, FIRST, { [FIRST]: segmentOf(OTHER_WAL, 0) }),
      (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /^Cannot archive 0+10+3: this archive's 000000010000000000000004 does not continue it; nothing was/,
        );
        return true;
      },
    );
    assert.equal(content(machine, FIRST), undefined);
    assert.equal(names(machine, "conflicts").length, 1);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    assertHolds(machine, [FIRST, SECOND, "conflicts"]);
  }));

/** The segment with another word in its first record for where the one before it begins. */
function misleading(segment: Uint8Array, startLsn: bigint): Uint8Array {
  const scanner = new SegmentScanner({ startLsn: lsn(startLsn), segmentSize: SEGMENT_SIZE });
  scanner.push(segment);
  const { firstRecordLsn } = scanner.result();
  const changed = segment.slice();
  changed[Number(firstRecordLsn! - startLsn) + 8]! ^= 0x80;
  return changed;
}

function torn(segment: Uint8Array): Uint8Array {
  return segment.slice().fill(0xff, 600_000, 600_100);
}

for (
  const [side, own, next] of [
    ["the segment", torn(SEGMENT), segmentOf(WAL, 1)],
    ["the archive's next one", SEGMENT, misleading(segmentOf(WAL, 1), START + BigInt(MIB))],
  ] as const
) {
  test(`P5: damage in ${side} proves nothing against the segment`, () =>
    onSimDisk(async (machine) => {
      await makeArchive(machine.disk);
      await bring(machine.disk, SECOND, { [SECOND]: next });
      assert.equal((await bring(machine.disk, FIRST, { [FIRST]: own })).outcome, "archived");
    }));
}

test("stream and push heal each other: whoever comes second compares and agrees", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const writer = await receiveSome(machine, MIB + 400_000);
    assert.deepEqual(await bring(machine.disk, FIRST, { [FIRST]: SEGMENT }), {
      outcome: "present",
      path: FIRST,
    });
    const second = segmentOf(WAL, 1);
    assert.deepEqual(await bring(machine.disk, SECOND, { [SECOND]: second }), {
      outcome: "archived",
      path: SECOND,
    });
    for (let at = MIB + 400_000; at < 2 * MIB;) {
      at += await writer.append(WAL.subarray(at, at + 60_000), "sync");
    }
    await writer.publish();
    await writer.close();
    assertHolds(machine, [FIRST, SECOND]);
    assert.deepEqual(content(machine, SECOND), second);
  }));

test("P8: what is not complete is kept where it grows, once, and never under its name", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const cut = unfinished(300_000);
    const kept = { outcome: "kept", path: `inprogress/${FIRST}.saved-1`, contradicted: undefined };
    const { validEndLsn, ...accepted } = await bring(machine.disk, FIRST, { [FIRST]: cut }) as
      & { validEndLsn: bigint }
      & object;
    assert.deepEqual(accepted, kept);
    assert.ok(validEndLsn > START + 290_000n && validEndLsn < START + 300_000n);
    assertHolds(machine, [], [`${FIRST}.saved-1`]);
    const partial = `${FIRST}.partial`;
    for (const [name, bytes] of [[FIRST, cut], [partial, cut], [partial, unfinished(200_000)]] as const) {
      const again = await bring(machine.disk, name, { [name]: bytes });
      assert.deepEqual(again, { outcome: "present", path: `inprogress/${FIRST}.saved-1` });
    }
    const longer = await bring(machine.disk, partial, { [partial]: unfinished(500_000) });
    assert.equal(longer.path, `inprogress/${FIRST}.saved-2`);
    assertHolds(machine, [], [`${FIRST}.saved-1`, `${FIRST}.saved-2`]);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    assert.deepEqual(await bring(machine.disk, FIRST, { [FIRST]: cut }), { outcome: "present", path: FIRST });
    assert.deepEqual(content(machine, FIRST), SEGMENT);
  }));

for (
  const [how, before, modifiedMs] of [
    ["says so", SEGMENT, [1, 2]],
    ["has one clock tick for both", unfinished(100_000), [1, 1]],
    ["was written to just before", withHole(SEGMENT), [1e12 - 3, 1e12 - 3]],
  ] as const
) {
  test(`P1: a segment that grows while it is read is not taken; its file ${how}`, () =>
    onSimDisk(async (machine) => {
      await makeArchive(machine.disk);
      for (const ahead of [false, true]) {
        const growing = growingFile(FIRST, { reads: 1, before, after: SEGMENT, modifiedMs });
        const pieces = [new Uint8Array(256 * 1024), new Uint8Array(256 * 1024)] as const;
        const options = ahead ? { pieces, ahead: await readAhead(growing, FIRST, pieces[0]) } : {};
        await assert.rejects(
          bring(machine.disk, FIRST, growing, options),
          /: it was written to while it was read; the server will ask again$/,
        );
        assertHolds(machine, []);
      }
      await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
      assert.deepEqual(content(machine, FIRST), SEGMENT);
    }));
}

test("a partial segment is never published, even when it is complete", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const name = `${FIRST}.partial`;
    const accepted = await bring(machine.disk, name, { [name]: SEGMENT });
    assert.equal(accepted.path, `inprogress/${FIRST}.saved-1`);
    assertHolds(machine, [], [`${FIRST}.saved-1`]);
  }));

test("a partial segment that contradicts the archive is kept and told, and blocks nobody", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const name = `${FIRST}.partial`;
    const other = unfinished(300_000, OTHER_WAL);
    await (await receiveSome(machine, 400_000)).close();
    const grown = await bring(machine.disk, name, { [name]: other });
    assert.ok(grown.outcome === "kept");
    assert.deepEqual(grown.contradicted, { path: `inprogress/${FIRST}`, differenceLsn: START + 40n });
    await machine.disk.unlink(`inprogress/${FIRST}.saved-1`);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    const accepted = await bring(machine.disk, name, { [name]: other });
    assert.ok(accepted.outcome === "kept");
    assert.deepEqual(accepted.contradicted, { path: FIRST, differenceLsn: START + 40n });
  }));

test("P5: what is not of this cluster is refused before anything is written", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const records = [{ totalBytes: 5000 }];
    const short = buildWal({ startLsn: START, segmentBytes: 2 * MIB, records }).segments[0]!;
    const foreign = SEGMENT.slice();
    foreign[24]! ^= 1;
    const elsewhere = segmentOf(WAL, 1);
    const later = SEGMENT.slice();
    later[4] = 2;
    const short1 = short.subarray(0, MIB);
    const history = new TextEncoder().encode("1\t0/300100\tno recovery target specified\n");
    const label = new TextEncoder().encode(`START WAL LOCATION: 0/300028 (file ${FIRST})\n`);
    const labelName = `${FIRST}.00000028.backup`;
    const cases: readonly (readonly [
      name: string,
      bytes: Uint8Array,
      error: RegExp,
      systemIdentifier?: bigint | undefined,
    ])[] = [
      [
        FIRST,
        foreign,
        /system identifier \d+, want \d+; the file is not what its name says, or of another cluster$/,
      ],
      [FIRST, elsewhere, /page address 0\/400000, want 0\/300000/],
      [FIRST, later, /a page of timeline 2, want 1 or an earlier one/],
      [FIRST, new Uint8Array(MIB), /page address 0\/0/],
      [FIRST, short, /it has 2097152 bytes, want 1048576/],
      [FIRST, short1, /segments of 2097152 bytes, want 1048576/],
      [FIRST, SEGMENT, /this data directory is of the cluster with system identifier 7, the archive of/, 7n],
      ["00000002.history", history, /is of the cluster with system identifier 7/, 7n],
      [labelName, label, /is of the cluster with system identifier 7/, 7n],
      ["00000002.history", history, /no global\/pg_control here$/, undefined],
      [labelName, label, /no global\/pg_control here$/, undefined],
      ["00000002.history", label, /Cannot parse history of timeline 2, line 1/],
      [
        "00000002.history",
        history.subarray(0, -1),
        /Cannot parse history of timeline 2: its last line is cut off/,
      ],
      ["00000002.history", new TextEncoder().encode("# x\n"), /history of timeline 2: it names no ancestor/],
      [labelName, history, /does not say where the backup began/],
      [`${FIRST}.00000030.backup`, label, /does not say where the backup began/],
      [`${SECOND}.00000028.backup`, label, /does not say where the backup began/],
      ["000000010000000000001000", SEGMENT, /the archive's segments are of 1MB, and none has this name/],
      ["postgresql.conf", SEGMENT, /by its name it is no segment, history or backup label/],
      [`${FIRST}.zst`, SEGMENT, /by its name it is no segment/],
      ["00000001000000000000000a", SEGMENT, /by its name it is no segment/],
    ];
    for (const [name, bytes, error, ...rest] of cases) {
      const options = rest.length === 0 ? {} : { systemIdentifier: rest[0] };
      await assert.rejects(bring(machine.disk, name, { [name]: bytes }, options), error);
      assertHolds(machine, []);
    }
    assert.deepEqual(machine.operations.filter((line) => /^(create|write) .*push/.test(line)), []);
    await assert.rejects(
      bring(machine.disk, FIRST, { [FIRST]: foreign }),
      (error) => error instanceof WrongClusterError,
    );
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT }, { systemIdentifier: undefined });
    assertHolds(machine, [FIRST]);
  }));

test("P5: a new timeline's first segment begins with pages of an ancestor, and of no other timeline", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const name = `00000003${FIRST.slice(8)}`;
    const lineage = new TextEncoder().encode("1\t0/300100\tfork\n");
    const old = segmentOf(WAL, 0);
    const onTwo = segmentOf(WAL, 0);
    onTwo[4] = 2;
    await assert.rejects(
      bring(machine.disk, name, { [name]: onTwo, "00000003.history": lineage }),
      /a page of timeline 2, want 3 or an ancestor of it/,
    );
    await bring(machine.disk, "00000003.history", { "00000003.history": lineage });
    await assert.rejects(
      bring(machine.disk, name, { [name]: onTwo }),
      /a page of timeline 2, want 3 or an ancestor/,
    );
    await bring(machine.disk, name, { [name]: old });
    assert.deepEqual(content(machine, name), old);
  }));

test("P5: the first segment of a timeline continues the one that it came from", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    const history = { "00000002.history": new TextEncoder().encode("1\t0/401000\tfork\n") };
    await bring(machine.disk, "00000002.history", history);
    const name = `00000002${SECOND.slice(8)}`;
    await assert.rejects(
      bring(machine.disk, name, { [name]: segmentOf(OTHER_WAL, 1) }),
      /does not continue this archive's 000000010000000000000003/,
    );
    await bring(machine.disk, name, { [name]: segmentOf(WAL, 1) });
  }));

test("the history beside a segment of its timeline is archived with it, if the archive has none", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const name = `00000002${FIRST.slice(8)}`;
    const text = new TextEncoder().encode("1\t0/300100\tno recovery target specified\n");
    const files = { [name]: segmentOf(WAL, 0), "00000002.history": text };
    // Nothing but the segment tells whose it is, and that does not tell of the history.
    await bring(machine.disk, name, files, { systemIdentifier: undefined });
    assertHolds(machine, [name]);
    const next = `00000002${SECOND.slice(8)}`;
    await assert.rejects(
      bring(machine.disk, next, { ...files, [next]: segmentOf(OTHER_WAL, 1) }),
      /does not continue/,
    );
    assert.equal(content(machine, "00000002.history"), undefined, "a refused one's is not");
    const third = `00000002${THIRD.slice(8)}`;
    const cut = { [third]: segmentOf(WAL, 2), "00000002.history": text.subarray(0, -1) };
    await bring(machine.disk, third, cut);
    assertHolds(machine, [name, third, "conflicts"]);
    const accepted = await bring(machine.disk, next, { ...files, [next]: segmentOf(WAL, 1) });
    assert.deepEqual(accepted, { outcome: "archived", path: next });
    assertHolds(machine, [name, next, third, "00000002.history", "conflicts"]);
    assert.deepEqual(content(machine, "00000002.history"), text);
  }));

test("histories and backup labels: the same again is success, others are refused and kept", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const history = new TextEncoder().encode("1\t0/300100\tno recovery target specified\n");
    const label = new TextEncoder().encode(`START WAL LOCATION: 0/300028 (file ${FIRST})\nLABEL: x\n`);
    for (
      const [name, bytes] of [["00000002.history", history], [`${FIRST}.00000028.backup`, label]] as const
    ) {
      assert.deepEqual(await bring(machine.disk, name, { [name]: bytes }), {
        outcome: "archived",
        path: name,
      });
      assert.deepEqual(await bring(machine.disk, name, { [name]: bytes }), {
        outcome: "present",
        path: name,
      });
      const other = new Uint8Array([...bytes, 10]);
      await assert.rejects(
        bring(machine.disk, name, { [name]: other }),
        /the archive has other bytes under this name/,
      );
      assert.deepEqual(content(machine, name), bytes);
      const [kept = ""] = names(machine, "conflicts").filter((each) => each.startsWith(name));
      assert.deepEqual(content(machine, `conflicts/${kept}`), other);
      assert.deepEqual(names(machine, "inprogress"), []);
    }
  }));

test("what a killed push left goes when the file comes again, or a receiver starts", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    for (const left of [`${FIRST}.push-0a`, `${SECOND}.push-9z`, `${FIRST}.partial.push-7`]) {
      await (await machine.disk.create(`inprogress/${left}`, 0o600)).close();
    }
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    assertHolds(machine, [FIRST], [`${FIRST}.partial.push-7`, `${SECOND}.push-9z`]);
    await makeArchive(machine.disk);
    assertHolds(machine, [FIRST]);
  }));

for (
  const [name, bytes] of [[FIRST, SEGMENT], [
    "00000002.history",
    new TextEncoder().encode("1\t0/300100\tx\n"),
  ]] as const
) {
  test(`P5: a push of ${name} fails when its archive goes away while it works`, () =>
    onSimDisk(async (machine) => {
      await makeArchive(machine.disk);
      machine.operations.length = 0;
      const identity = machine.sim.file("archive.json");
      assert.ok(identity !== undefined);
      const rejected = assert.rejects(
        bring(machine.disk, name, { [name]: bytes }),
        /archive\.json is gone; look whether its disk is still mounted there/,
      );
      while (!machine.operations.some((line) => line.startsWith("list inprogress"))) await machine.sleep(0.1);
      identity.published = false;
      await machine.disk.unlink("archive.json");
      await rejected;
    }));
}

test("a push whose file is taken away while it writes fails, and leaves nothing", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const first = bring(machine.disk, FIRST, { [FIRST]: SEGMENT });
    const rejected = assert.rejects(first, /removed what was written; the server will ask again/);
    while (names(machine, "inprogress").length === 0) await machine.sleep(0.1);
    await machine.disk.unlink(`inprogress/${FIRST}.push-1`);
    await rejected;
    assertHolds(machine, []);
  }));

for (const kind of ["create", "write", "sync", "link", "syncDirectory"] as const) {
  for (const code of ["ENOSPC", "EIO"] as const) {
    test(`push fails when the disk fails a ${kind} with ${code}; the next one succeeds`, () =>
      onSimDisk(async (machine) => {
        await makeArchive(machine.disk);
        machine.fail(kind, code);
        await assert.rejects(bring(machine.disk, FIRST, { [FIRST]: SEGMENT }), { code });
        assert.deepEqual(names(machine, "inprogress"), []);
        await bring(machine.disk, FIRST, { [FIRST]: SEGMENT }, { suffix: "2" });
        assertHolds(machine, [FIRST]);
        assert.deepEqual(content(machine, FIRST), SEGMENT);
      }));
  }
}

test("segments end as they may: full, inside a record, or in a switch", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const { segments } = buildWal({
      startLsn: START,
      segmentBytes: MIB,
      // A switch; then a record over more than two segments; then a switch again.
      records: [
        { totalBytes: 5000 },
        { totalBytes: 24, resourceManager: 0, info: 0x40 },
        { totalBytes: 3000 },
        { totalBytes: Math.floor(2.5 * MIB) },
        { totalBytes: 4000 },
        { totalBytes: 24, resourceManager: 0, info: 0x40 },
        { totalBytes: 5000 },
        { totalBytes: 24, resourceManager: 0, info: 0x40 },
      ],
    });
    assert.equal(segments.length, 5);
    for (const [index, bytes] of segments.entries()) {
      const name = `00000001000000000000000${index + 3}`;
      const accepted = await bring(machine.disk, name, { [name]: bytes });
      assert.equal(accepted.outcome, "archived", name);
    }
    // One whose first record points before the one that is there.
    const stray = buildWal({
      startLsn: lsn(8n * BigInt(MIB)),
      segmentBytes: MIB,
      records: [{ totalBytes: 5000 }, { totalBytes: 24, resourceManager: 0, info: 0x40 }],
      prevLsn: 0x300028n,
    }).segments[0]!;
    const name = "000000010000000000000008";
    await assert.rejects(
      bring(machine.disk, name, { [name]: stray }),
      /does not continue .*which is not the last one there/,
    );
  }));

for (const format of ["zstd", "gzip", "lz4"] as const) {
  const form = { zstd: ".zst", gzip: ".gz", lz4: ".lz4" }[format];
  const options = { compression: { format, level: 1 } };

  test(`push --compress ${format} publishes the compressed form only, and compares with any form`, () =>
    inTemporaryDirectory(async (root) => {
      const disk = openDirectDisk(root);
      await makeArchive(disk);
      const path = FIRST + form;
      assert.deepEqual(await bring(disk, FIRST, { [FIRST]: SEGMENT }, options), {
        outcome: "archived",
        path,
      });
      assert.deepEqual(fs.readdirSync(root).sort(), [path, "archive.json", "inprogress"].sort());
      assert.ok(fs.statSync(join(root, path)).size < MIB);
      for (const again of [{}, options, { compression: { format: "zstd", level: 3 } } as const]) {
        const present = await bring(disk, FIRST, { [FIRST]: SEGMENT }, again);
        assert.deepEqual(present, { outcome: "present", path });
      }
      for (const other of [{}, options]) {
        await assert.rejects(
          bring(disk, FIRST, { [FIRST]: segmentOf(OTHER_WAL, 0) }, other),
          /the archive has other bytes under this name .*they differ first at 0\/300028; there the archive's file has/,
        );
      }
      // The next ones continue it, or do not.
      await assert.rejects(
        bring(disk, SECOND, { [SECOND]: segmentOf(OTHER_WAL, 1) }, options),
        /it does not continue this archive's 000000010000000000000003/,
      );
      await bring(disk, SECOND, { [SECOND]: segmentOf(WAL, 1) });
      await bring(disk, THIRD, { [THIRD]: segmentOf(WAL, 2) }, options);
      assert.deepEqual(fs.readdirSync(join(root, "inprogress")), []);
    }));

  test(`push --compress ${format} does not take a segment that grows while it is read`, () =>
    inTemporaryDirectory(async (root) => {
      const disk = openDirectDisk(root);
      await makeArchive(disk);
      for (const [before, last] of [[SEGMENT, 2], [withHole(SEGMENT), 1]] as const) {
        const modifiedMs = [1, last] as const;
        const growing = growingFile(FIRST, { reads: 1, before, after: SEGMENT, modifiedMs });
        await assert.rejects(
          bring(disk, FIRST, growing, options),
          /was written to while it was read|reads back with another byte/,
        );
        assert.deepEqual(fs.readdirSync(join(root, "inprogress")), []);
      }
      assert.deepEqual(fs.readdirSync(root).sort(), ["archive.json", "inprogress"]);
    }));

  test(`push --compress ${format} keeps what is not complete as it is`, () =>
    inTemporaryDirectory(async (root) => {
      const disk = openDirectDisk(root);
      await makeArchive(disk);
      const cut = unfinished(300_000);
      const accepted = await bring(disk, FIRST, { [FIRST]: cut }, options);
      assert.equal(accepted.path, `inprogress/${FIRST}.saved-1`);
      assert.deepEqual(new Uint8Array(fs.readFileSync(join(root, accepted.path))), cut);
      const partial = `${SECOND}.partial`;
      await bring(disk, partial, { [partial]: segmentOf(WAL, 1) }, options);
      assert.deepEqual(fs.readdirSync(join(root, "inprogress")).sort(), [
        `${FIRST}.saved-1`,
        `${SECOND}.saved-1`,
      ]);
    }));
}

/** Cuts the end off a file, and tells what is left. */
function damage(path: string): Uint8Array {
  fs.truncateSync(path, fs.statSync(path).size - 10);
  return new Uint8Array(fs.readFileSync(path));
}

const ZSTD = { compression: { format: "zstd", level: 1 } } as const;

for (const options of [{}, ZSTD]) {
  const how = options === ZSTD ? "also with --compress" : "and gets its name";
  test(`a damaged compressed segment is moved aside when the server brings a good one, plain, ${how}`, () =>
    inTemporaryDirectory(async (root) => {
      const disk = openDirectDisk(root);
      await makeArchive(disk);
      await bring(disk, FIRST, { [FIRST]: SEGMENT }, ZSTD);
      const damaged = damage(join(root, `${FIRST}.zst`));
      // It says nothing about the next one.
      await bring(disk, SECOND, { [SECOND]: segmentOf(WAL, 1) });
      const accepted = await bring(disk, FIRST, { [FIRST]: SEGMENT }, options);
      const [kept, ...more] = fs.readdirSync(join(root, "conflicts"));
      assert.deepEqual(more, []);
      assert.deepEqual(accepted, {
        outcome: "archived",
        path: FIRST,
        damaged: [{ path: `${FIRST}.zst`, keptPath: `conflicts/${kept}` }],
      });
      assert.deepEqual(new Uint8Array(fs.readFileSync(join(root, "conflicts", kept!))), damaged);
      const left = fs.readdirSync(root).filter((name) => name.startsWith(FIRST));
      assert.deepEqual(left, [FIRST]);
      assert.deepEqual(await bring(disk, FIRST, { [FIRST]: SEGMENT }, options), {
        outcome: "present",
        path: FIRST,
      });
      assert.deepEqual(fs.readdirSync(join(root, "inprogress")), []);
    }));
}

test("a damaged compressed segment that ended in an XLOG_SWITCH is moved aside for a good one, too", () =>
  inTemporaryDirectory(async (root) => {
    const records = [...Array.from({ length: 40 }, () => ({ totalBytes: 5000 })), SWITCH];
    const switched = buildWal({ startLsn: START, segmentBytes: MIB, records }).segments[0]!;
    const disk = openDirectDisk(root);
    await makeArchive(disk);
    await bring(disk, FIRST, { [FIRST]: switched }, ZSTD);
    damage(join(root, `${FIRST}.zst`));
    const accepted = await bring(disk, FIRST, { [FIRST]: switched });
    assert.equal(accepted.outcome, "archived");
    assert.equal(fs.readdirSync(join(root, "conflicts")).length, 1);
  }));

test("a damaged compressed segment stays where the brought one proves less, or contradicts the archive", () =>
  inTemporaryDirectory(async (root) => {
    const disk = openDirectDisk(root);
    await makeArchive(disk);
    await bring(disk, FIRST, { [FIRST]: SEGMENT });
    await bring(disk, SECOND, { [SECOND]: segmentOf(WAL, 1) }, ZSTD);
    const path = join(root, `${SECOND}.zst`);
    const damaged = damage(path);
    const broken = segmentOf(WAL, 1);
    broken[300_000]! ^= 1;
    await assert.rejects(
      bring(disk, SECOND, { [SECOND]: broken }),
      (error) => error instanceof DamagedFileError,
    );
    await assert.rejects(
      bring(disk, SECOND, { [SECOND]: segmentOf(OTHER_WAL, 1) }),
      /does not continue this archive's/,
    );
    const cut = await bring(disk, SECOND, { [SECOND]: unfinished(300_000, WAL.subarray(MIB)) });
    assert.equal(cut.outcome, "kept");
    assert.deepEqual(new Uint8Array(fs.readFileSync(path)), damaged);
  }));

test("a damaged compressed segment goes aside also when a good form of it is here", () =>
  inTemporaryDirectory(async (root) => {
    const disk = openDirectDisk(root);
    await makeArchive(disk);
    await bring(disk, FIRST, { [FIRST]: SEGMENT }, ZSTD);
    damage(join(root, `${FIRST}.zst`));
    const good = join(root, `${FIRST}.gz`);
    fs.writeFileSync(good, gzipSync(segmentOf(OTHER_WAL, 0)), { mode: 0o600 });
    await assert.rejects(
      bring(disk, FIRST, { [FIRST]: SEGMENT }),
      /the archive has other bytes under this name \(".*3\.gz"\)/,
    );
    assert.ok(fs.existsSync(join(root, `${FIRST}.zst`)));
    fs.writeFileSync(good, gzipSync(SEGMENT));
    const { outcome, path } = await bring(disk, FIRST, { [FIRST]: SEGMENT });
    assert.deepEqual({ outcome, path }, { outcome: "present", path: `${FIRST}.gz` });
    assert.ok(!fs.existsSync(join(root, `${FIRST}.zst`)));
  }));

test("readAhead() finds a segment's start, and nothing in other files", async () => {
  const piece = new Uint8Array(100_000);
  const files = {
    segment: SEGMENT,
    short: SEGMENT.subarray(0, 30),
    empty: new Uint8Array(0),
    text: SEGMENT.subarray(5000),
  };
  const ahead = await readAhead(broughtFiles(files), "segment", piece);
  assert.equal(ahead?.startLsn, START);
  assert.equal(ahead?.segmentBytes, MIB);
  assert.equal(ahead?.bytes, piece.length);
  for (const name of ["short", "empty", "text", "none"]) {
    assert.equal(await readAhead(broughtFiles(files), name, piece), undefined, name);
  }
});

test("a segment that was read ahead is taken as any other; one that is not what its name says is refused", () =>
  onSimDisk(async (machine) => {
    await makeArchive(machine.disk);
    const pieces = [new Uint8Array(150_000), new Uint8Array(150_000)] as const;
    const options = async (bytes: Uint8Array) => {
      const ahead = await readAhead(broughtFiles({ x: bytes }), "x", pieces[0]);
      assert.ok(ahead !== undefined);
      return { pieces, ahead };
    };
    const second = segmentOf(WAL, 1);
    await assert.rejects(
      bring(machine.disk, FIRST, { [FIRST]: second }, await options(second)),
      /page address/,
    );
    await bring(machine.disk, FIRST, { [FIRST]: SEGMENT }, await options(SEGMENT));
    assert.deepEqual(content(machine, FIRST), SEGMENT);
    const cut = unfinished(300_000, WAL.subarray(MIB));
    const accepted = await bring(machine.disk, SECOND, { [SECOND]: cut }, await options(cut));
    assert.deepEqual(content(machine, accepted.path), cut);
  }));
