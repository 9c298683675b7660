import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { Archive } from "../../lib/archive/archive.ts";
import { CopySource } from "../../lib/archive/copy_source.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { GapFiller, NOTHING_BEHIND_YET } from "../../lib/archive/gap_filler.ts";
import { encodeGapAcceptance, gapOfSegments } from "../../lib/archive/gaps.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { lz4BlockEncoder } from "../../lib/archive/lz4_block.ts";
import { encodeLz4Frame } from "../../lib/archive/lz4_frame.ts";
import type { MinimumFree } from "../../lib/archive/minimum_free.ts";
import { copiesOf } from "../../lib/archive/segment_copies.ts";
import { xxHash32 } from "../../lib/archive/xx_hash32.ts";
import { WrongClusterError } from "../../lib/wal/errors.ts";
import { segmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB, type RecordPlan } from "../wal/wal_builder.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";
import { bring, broughtFiles, makeArchive } from "./brought_files.ts";
import {
  IDENTITY,
  type Machine,
  NAMES,
  NAMING,
  onSimDisk,
  SEGMENT_SIZE,
  START,
  walOf,
} from "./on_sim_disk.ts";

const WAL = walOf({ bytes: 5 * MIB });
const segmentOf = (index: number, wal = WAL) => wal.slice(index * MIB, (index + 1) * MIB);
const [FIRST = "", SECOND = "", THIRD = "", FOURTH = ""] = NAMES;
/** Segments 4 and 5. */
const GAP = { timeline: timelineId(1), firstNumber: segmentNumber(4n), endNumber: segmentNumber(6n) };
/** From what stands behind it downwards. */
const ALL_OF_IT = [segmentNumber(5n), segmentNumber(4n)];

function lz4Of(bytes: Uint8Array): Uint8Array {
  return encodeLz4Frame(bytes, { hash: xxHash32, encodeBlock: lz4BlockEncoder() });
}

let suffixes = 0;

async function fillerOf(disk: Disk, minimumFree?: MinimumFree): Promise<GapFiller> {
  const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
  return new GapFiller(archive, {
    pieces: [new Uint8Array(MIB / 4), new Uint8Array(MIB / 4)],
    minimumFree,
    nowMs: () => 1e12,
    suffix: () => `h${suffixes++}`,
  });
}

/** An archive with the first and the fourth segment of `WAL`. */
async function archiveWithGap(disk: Disk): Promise<void> {
  await makeArchive(disk);
  await bring(disk, FIRST, { [FIRST]: segmentOf(0) });
  await bring(disk, FOURTH, { [FOURTH]: segmentOf(3) });
}

interface Brought {
  readonly numbers: readonly bigint[];
  readonly said: string | undefined;
}

async function bringFrom(source: CopySource, gap = GAP): Promise<Brought> {
  const numbers: bigint[] = [];
  const { signal } = new AbortController();
  const take = (number: bigint) => void numbers.push(number);
  await source.beginRound();
  let said = await source.bring(gap, take, signal, "behind");
  // As whoever heals goes on, for what is left.
  const endNumber = numbers.reduce<bigint>((end, number) => number < end ? number : end, gap.endNumber);
  if (endNumber > gap.firstNumber) {
    said = await source.bring({ ...gap, endNumber: segmentNumber(endNumber) }, take, signal, "before") ??
      said;
  }
  await source.endRound();
  return { numbers, said };
}

/** Another directory, in memory; `files` may change. */
function peerOf(files: Record<string, Uint8Array> | undefined): Disk {
  const list = (path: string) =>
    Promise.resolve(path === "." && files !== undefined ? Object.keys(files) : undefined);
  return { ...broughtFiles(files ?? {}), list } as Disk;
}

/** Runs with an archive that has a gap, and a directory beside it. */
async function withPeer(
  files: Readonly<Record<string, Uint8Array>> | undefined,
  use: (source: CopySource, machine: Machine) => Promise<void>,
  options: { systemIdentifier?(): Promise<bigint> } = {},
): Promise<void> {
  await onSimDisk(async (machine) => {
    await archiveWithGap(machine.disk);
    const filler = await fillerOf(machine.disk);
    await use(new CopySource(peerOf(files), filler, { name: "peer", places: "all", ...options }), machine);
  });
}

/** As `withPeer`, of real files: the runtime's decoders take real time. */
async function withRealPeer(
  files: Readonly<Record<string, Uint8Array>>,
  use: (source: CopySource, names: () => readonly string[]) => Promise<void>,
): Promise<void> {
  await inTemporaryDirectory(async (directory) => {
    const [archive, peer] = [join(directory, "archive"), join(directory, "peer")];
    for (const path of [archive, peer]) fs.mkdirSync(path);
    for (const [name, content] of Object.entries(files)) fs.writeFileSync(join(peer, name), content);
    const disk = openDirectDisk(archive);
    await archiveWithGap(disk);
    const options = { name: peer, places: "all" } as const;
    await use(new CopySource(openDirectDisk(peer), await fillerOf(disk), options), () => {
      assert.deepEqual(fs.readdirSync(join(archive, "inprogress")), [], "no temporary file is left");
      const names = fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}/.test(name)).toSorted();
      for (const name of names) {
        assert.deepEqual(
          new Uint8Array(fs.readFileSync(join(archive, name))),
          segmentOf(NAMES.indexOf(name)),
        );
      }
      return names;
    });
  });
}

function assertHas(machine: Machine, names: readonly string[]): void {
  const root = machine.sim.names(".").filter((name) => /^[0-9A-F]{24}/.test(name)).toSorted();
  assert.deepEqual(root, names);
  for (const name of names) {
    const index = NAMES.indexOf(name);
    assert.deepEqual(machine.sim.file(name)?.content, segmentOf(index), name);
  }
  assert.deepEqual(
    machine.sim.names("inprogress").filter((name) => name.includes("push")),
    [],
    "no temporary file is left",
  );
}

test("copiesOf() names all forms and what is kept in inprogress, and nothing else", () => {
  const root = new Set([FIRST, `${FIRST}.gz`, `${FIRST}.partial`, SECOND]);
  const inProgress = [`${FIRST}.saved-2`, FIRST, `${FIRST}.saved-1`, `${FIRST}.push-1`, `${SECOND}.saved-1`];
  assert.deepEqual(copiesOf(FIRST, { root, inProgress }).map(({ path, format }) => [path, format]), [
    [FIRST, undefined],
    [`${FIRST}.gz`, "gzip"],
    [`inprogress/${FIRST}`, undefined],
    [`inprogress/${FIRST}.saved-1`, undefined],
    [`inprogress/${FIRST}.saved-2`, undefined],
  ]);
  assert.deepEqual(copiesOf(THIRD, { root, inProgress }), []);
});

test("a gap is filled from another directory, whatever form its files have", async () => {
  const forms: readonly Readonly<Record<string, Uint8Array>>[] = [
    { [SECOND]: segmentOf(1), [THIRD]: segmentOf(2) },
    { [`${SECOND}.gz`]: gzipSync(segmentOf(1)), [`${THIRD}.zst`]: zstdCompressSync(segmentOf(2)) },
    { [`${SECOND}.lz4`]: lz4Of(segmentOf(1)), [`${THIRD}.gz`]: gzipSync(segmentOf(2)) },
  ];
  for (const files of forms) {
    await withRealPeer(files, async (source, names) => {
      assert.deepEqual(await bringFrom(source), { numbers: ALL_OF_IT, said: undefined });
      assert.deepEqual(names(), NAMES);
    });
  }
});

test("P1: what fills a gap has its name when it is synced, and is told of only then", () =>
  withPeer({ [THIRD]: segmentOf(2) }, async (source, machine) => {
    machine.operations.length = 0;
    const told: number[] = [];
    await source.beginRound();
    await source.bring(GAP, () => void told.push(machine.operations.length), new AbortController().signal);
    const important = machine.operations.slice(0, told[0]).filter((line) =>
      /^(create|sync|link|unlink)/.test(line)
    ).map((line) => line.replace(/push-h\d+/, "push-h"));
    assert.deepEqual(important, [
      `create inprogress/${THIRD}.push-h`,
      `sync inprogress/${THIRD}.push-h`,
      `link inprogress/${THIRD}.push-h ${THIRD}`,
      "syncDirectory .",
      `unlink inprogress/${THIRD}.push-h`,
    ]);
    assert.equal(machine.operations.some((line) => line.startsWith(`create ${THIRD}`)), false);
  }));

test("what another directory lacks is told, and the rest is brought", () =>
  withPeer({ [THIRD]: segmentOf(2) }, async (source, machine) => {
    assert.deepEqual(await bringFrom(source), { numbers: [5n], said: "lacks 1 segment" });
    assertHas(machine, [FIRST, THIRD, FOURTH]);
  }));

test("a segment that is not whole closes no gap and is not kept, as a server's pg_wal holds them", async () => {
  const growing = segmentOf(1).fill(0, 500_000);
  const recycled = segmentOf(4);
  const overwritten = segmentOf(1);
  overwritten.set(segmentOf(4).subarray(500_000), 500_000);
  const holed = segmentOf(1).fill(0, 100_000, 100_050);
  for (
    const [content, problem] of [
      [growing, /is no complete segment: its WAL is right only up to 0\/4[0-9A-F]{5}/],
      [recycled, /page address 0\/700000, want its own/],
      [overwritten, /is no complete segment/],
      [holed, /its WAL is right only up to 0\/41[0-9A-F]{4} /],
      [segmentOf(1).subarray(0, 500_000), /has 500000 bytes, want 1048576/],
      [new Uint8Array(MIB), /is no complete segment/],
    ] as const
  ) {
    await withPeer({ [SECOND]: content }, async (source, machine) => {
      const { numbers, said } = await bringFrom(source);
      assert.deepEqual(numbers, []);
      assert.match(said ?? "", problem);
      assertHas(machine, [FIRST, FOURTH]);
      assert.deepEqual(machine.sim.names("inprogress"), [], "nothing is kept of it");
    });
  }
});

test("nor does one that is compressed and not whole, or not right", async () => {
  for (
    const content of [
      segmentOf(1).fill(0, 500_000),
      segmentOf(4),
      segmentOf(1).fill(0, 100_000, 100_050),
      new Uint8Array(MIB),
      segmentOf(1).subarray(0, 500_000),
    ]
  ) {
    await withPeer({ [`${SECOND}.lz4`]: lz4Of(content) }, async (source, machine) => {
      const { numbers, said } = await bringFrom(source);
      assert.deepEqual(numbers, []);
      assert.match(said ?? "", /Cannot (archive|read)|is damaged/);
      assertHas(machine, [FIRST, FOURTH]);
      assert.deepEqual(machine.sim.names("inprogress"), [], "nothing is kept of it");
    });
  }
});

test("a segment that ends in an XLOG_SWITCH is whole, if nothing stands behind that", async () => {
  const records: RecordPlan[] = Array.from({ length: 250 }, () => ({ totalBytes: 5000 }));
  records.push({ totalBytes: 24, resourceManager: 0, info: 0x40 });
  const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
  // The peer has nothing of the next one.
  const gap = GAP;
  for (const isWhole of [true, false]) {
    const content = segments[1]!.slice();
    if (!isWhole) content[900_000] = 1;
    await onSimDisk(async (machine) => {
      await makeArchive(machine.disk);
      await bring(machine.disk, FIRST, { [FIRST]: segments[0]! });
      const filler = await fillerOf(machine.disk);
      const peer = peerOf({ [SECOND]: content });
      const source = new CopySource(peer, filler, { name: "peer", places: "all" });
      const { numbers } = await bringFrom(source, gap);
      assert.deepEqual(numbers, isWhole ? [4n] : []);
    });
  }
});

test("a damaged form does not stand in the way of a good one", () =>
  withRealPeer({
    [SECOND]: segmentOf(1).fill(1, 200_000, 200_100),
    [`${SECOND}.gz`]: gzipSync(segmentOf(1)),
    [`${THIRD}.zst`]: zstdCompressSync(segmentOf(2)).subarray(0, -100),
  }, async (source, names) => {
    const { numbers, said } = await bringFrom(source);
    assert.deepEqual(numbers, [4n]);
    assert.match(said ?? "", /is cut off inside a frame/);
    assert.deepEqual(names(), [FIRST, SECOND, FOURTH]);
  }));

test("P4: other bytes are refused, and kept once; nothing of the archive changes", () =>
  withPeer({ [SECOND]: segmentOf(1, walOf({ bytes: 5 * MIB, seed: 1 })) }, async (source, machine) => {
    const { numbers, said } = await bringFrom(source);
    assert.deepEqual(numbers, []);
    assert.match(said ?? "", /lacks 1 segment; Cannot archive .* does not continue this archive's/);
    assertHas(machine, [FIRST, FOURTH]);
    assert.equal(machine.sim.names("conflicts").length, 1);
    machine.operations.length = 0;
    assert.equal((await bringFrom(source)).said, said, "told again");
    assert.deepEqual(machine.operations.filter((line) => /^(create|write|link)/.test(line)), []);
  }));

test("P5: another cluster's directory is refused before any of its files is read", async () => {
  const other = { ...IDENTITY, systemIdentifier: IDENTITY.systemIdentifier + 1n };
  const files = { [SECOND]: segmentOf(1), [THIRD]: segmentOf(2) };
  for (
    const [more, options] of [
      [{ "archive.json": encodeIdentity(other) }, {}],
      [{}, { systemIdentifier: () => Promise.resolve(other.systemIdentifier) }],
    ] as const
  ) {
    await withPeer({ ...files, ...more }, async (source, machine) => {
      await assert.rejects(
        bringFrom(source),
        (error) => error instanceof WrongClusterError && /it belongs to the cluster/.test(error.message),
      );
      assertHas(machine, [FIRST, FOURTH]);
    }, options);
  }
  await withPeer({ ...files, "archive.json": encodeIdentity(IDENTITY) }, async (source) => {
    assert.deepEqual((await bringFrom(source)).numbers, ALL_OF_IT);
  });
});

test("a directory that is not there is told", () =>
  withPeer(undefined, async (source) => {
    await assert.rejects(bringFrom(source), /there is no such directory/);
  }));

test("a copy that was kept from an earlier run fills a gap if it is whole", () =>
  onSimDisk(async (machine) => {
    await archiveWithGap(machine.disk);
    const put = async (name: string, content: Uint8Array) => {
      const file = await machine.disk.create(`inprogress/${name}`, 0o600);
      await file.write(content, 0);
      await file.sync();
      await file.close();
    };
    await put(`${SECOND}.saved-1`, segmentOf(1).fill(0, 300_000));
    await put(`${SECOND}.saved-2`, segmentOf(1));
    await put(THIRD, segmentOf(2).fill(0, 300_000));
    const filler = await fillerOf(machine.disk);
    const source = new CopySource(machine.disk, filler, { name: "kept copies", places: "unfinished" });
    const { numbers, said } = await bringFrom(source);
    assert.deepEqual(numbers, [4n]);
    assert.match(said ?? "", /0+10+5" is no complete segment/);
    assertHas(machine, [FIRST, SECOND, FOURTH]);
    const before = machine.sim.names("inprogress").toSorted();
    machine.operations.length = 0;
    await bringFrom(source, { ...GAP, firstNumber: segmentNumber(5n) });
    assert.deepEqual(machine.operations.filter((line) => /^(create|write|link|unlink)/.test(line)), []);
    assert.deepEqual(machine.sim.names("inprogress").toSorted(), before, "only the receiver changes these");
  }));

test("P1: what the sources bring twice, and somebody else at the same time, is there once", () =>
  withPeer({ [SECOND]: segmentOf(1) }, async (source, machine) => {
    await bring(machine.disk, SECOND, { [SECOND]: segmentOf(1) });
    assert.deepEqual(await bringFrom(source), { numbers: [4n], said: "lacks 1 segment" });
    assertHas(machine, [FIRST, SECOND, FOURTH]);
  }));

test("a power cut at any operation leaves no segment that is not whole, and the next round fills the gap", async () => {
  for (let cut = 0;; cut++) {
    assert.ok(cut < 500);
    let isOver = false;
    await withPeer({ [`${SECOND}.lz4`]: lz4Of(segmentOf(1)) }, async (source, machine) => {
      const before = machine.kinds.length;
      const working = bringFrom(source);
      working.catch(() => {
        // Its process is gone.
      });
      let settled = false;
      working.then(() => settled = true, () => settled = true);
      while (!settled && machine.kinds.length < before + cut) await machine.sleep(1);
      isOver = settled;
      const disk = machine.restart("power cut");
      const content = machine.sim.file(SECOND)?.content;
      if (content !== undefined) assert.deepEqual(content, segmentOf(1), `cut at operation ${cut}`);
      if (settled) assert.ok(content !== undefined, "what was told to be brought is there");
      await assert.doesNotReject(Archive.open(disk, { naming: NAMING, userId: undefined }));
    });
    if (isOver) break;
  }
});

test("a filler rejects what the disk says, and leaves nothing behind", () =>
  withPeer({ [`${SECOND}.lz4`]: lz4Of(segmentOf(1)) }, async (source, machine) => {
    machine.fail("write", "ENOSPC");
    await assert.rejects(bringFrom(source), (error) => (error as { code?: string }).code === "ENOSPC");
    assertHas(machine, [FIRST, FOURTH]);
    assert.deepEqual((await bringFrom(source)).numbers, [4n], "when there is room again");
  }));

const names = (first: number, end: number) =>
  Array.from({ length: end - first }, (_, index) => `00000001000000000000000${first + index}`);

/** WAL from segment 3 on; another server's, a clone's, from record `partsAt` on. */
function forkedWal(partsAt = Infinity): (number: number) => Uint8Array {
  const records: RecordPlan[] = [];
  for (let index = 0; index * 5000 < 8 * MIB; index++) {
    records.push({ totalBytes: index < partsAt ? 5000 : 5024 });
  }
  const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
  return (number) => segments[number - 3]!;
}

function filesOf(wal: (number: number) => Uint8Array, numbers: readonly number[]) {
  return Object.fromEntries(numbers.map((number) => [names(number, number + 1)[0]!, wal(number)]));
}

/** Segments 4 to 7. */
const LONG_GAP = { ...GAP, endNumber: segmentNumber(8n) };
const RIGHT = forkedWal();

/** An archive with segment 3, and 8 complete, growing, or not there. */
async function archiveWithLongGap(disk: Disk, eight: "published" | "growing" | "begun" | "absent") {
  await makeArchive(disk);
  const [three = "", last = ""] = [names(3, 4)[0], names(8, 9)[0]];
  await bring(disk, three, filesOf(RIGHT, [3]));
  if (eight === "published") await bring(disk, last, filesOf(RIGHT, [8]));
  if (eight === "absent" || eight === "published") return;
  const file = await disk.create(`inprogress/${last}`, 0o600);
  await file.truncate(MIB);
  await file.write(RIGHT(8).slice(0, eight === "begun" ? 2000 : 300_000), 0);
  await file.sync();
  await file.close();
}

for (const eight of ["published", "growing"] as const) {
  for (const [parts, partsAt] of [["before", 0], ["inside", 300]] as const) {
    test(`P5: nothing of a clone that parted ${parts} a gap's first segment gets a name, while the one behind is ${eight}`, () =>
      onSimDisk(async (machine) => {
        const clone = forkedWal(partsAt);
        assert.deepEqual(
          Buffer.compare(clone(3), RIGHT(3)) === 0,
          partsAt !== 0,
        );
        await archiveWithLongGap(machine.disk, eight);
        const filler = await fillerOf(machine.disk);
        const options = { name: "peer", places: "all" } as const;
        const wrong = new CopySource(peerOf(filesOf(clone, [4, 5, 6, 7])), filler, options);
        const { numbers, said } = await bringFrom(wrong, LONG_GAP);
        assert.deepEqual(numbers, []);
        assert.match(said ?? "", /Cannot archive 0+10+7: this archive's .*0+10+8 does not continue it/);
        const right = new CopySource(peerOf(filesOf(RIGHT, [4, 5, 6, 7])), filler, options);
        assert.deepEqual(await bringFrom(right, LONG_GAP), { numbers: [7n, 6n, 5n, 4n], said: undefined });
        for (const number of [4, 5, 6, 7]) {
          assert.deepEqual(machine.sim.file(names(number, number + 1)[0]!)?.content, RIGHT(number));
        }
      }));
  }
}

test("P5: a directory with segments of two servers is left at the first one that is not continued", () =>
  onSimDisk(async (machine) => {
    await archiveWithLongGap(machine.disk, "published");
    const filler = await fillerOf(machine.disk);
    const files = { ...filesOf(RIGHT, [6, 7]), ...filesOf(forkedWal(300), [4, 5]) };
    const mixed = new CopySource(peerOf(files), filler, { name: "peer", places: "all" });
    const { numbers, said } = await bringFrom(mixed, LONG_GAP);
    assert.deepEqual(numbers, [7n, 6n]);
    assert.match(said ?? "", /this archive's 0+10+6 does not continue it/);
  }));

for (const eight of ["absent", "begun"] as const) {
  test(`a gap waits for what stands behind it, which is ${eight}`, () =>
    onSimDisk(async (machine) => {
      await archiveWithLongGap(machine.disk, eight);
      const filler = await fillerOf(machine.disk);
      const peer = peerOf(filesOf(RIGHT, [4, 5, 6, 7]));
      const source = new CopySource(peer, filler, { name: "peer", places: "all" });
      assert.deepEqual(await bringFrom(source, LONG_GAP), { numbers: [], said: NOTHING_BEHIND_YET });
      if (eight === "begun") await machine.disk.unlink(`inprogress/${names(8, 9)[0]}`);
      await bring(machine.disk, names(8, 9)[0]!, filesOf(RIGHT, [8]));
      assert.deepEqual((await bringFrom(source, LONG_GAP)).numbers, [7n, 6n, 5n, 4n]);
    }));
}

test("a gap right before one that was given up is filled from what comes before it, as nothing will stand behind it", () =>
  onSimDisk(async (machine) => {
    await archiveWithLongGap(machine.disk, "absent");
    const filler = await fillerOf(machine.disk);
    const source = new CopySource(peerOf(filesOf(RIGHT, [4, 5, 6, 7])), filler, {
      name: "peer",
      places: "all",
    });
    assert.deepEqual((await bringFrom(source, LONG_GAP)).numbers, []);
    const behind = {
      timeline: LONG_GAP.timeline,
      firstNumber: segmentNumber(8n),
      endNumber: segmentNumber(9n),
    };
    const given = { acceptedAt: "", acceptedBy: "", reason: "" };
    await filler.archive.appendToLedger(
      encodeGapAcceptance({ ...gapOfSegments(behind, SEGMENT_SIZE), ...given }),
    );
    // A clone that parted before it is refused all the same.
    const clone = new CopySource(peerOf(filesOf(forkedWal(0), [4, 5, 6, 7])), filler, {
      name: "clone",
      places: "all",
    });
    assert.deepEqual((await bringFrom(clone, LONG_GAP)).numbers, []);
    assert.deepEqual((await bringFrom(source, LONG_GAP)).numbers, [4n, 5n, 6n, 7n]);
    assert.ok(filler.takenBytes > 4 * MIB);
  }));

test("what a directory has of a gap's start is tied to what stands before it, if it lacks the end", () =>
  onSimDisk(async (machine) => {
    await archiveWithLongGap(machine.disk, "published");
    const filler = await fillerOf(machine.disk);
    const peer = peerOf({ ...filesOf(RIGHT, [4, 5]), ...filesOf(() => RIGHT(6).slice().fill(0, 9000), [7]) });
    const source = new CopySource(peer, filler, { name: "peer", places: "all" });
    assert.deepEqual((await bringFrom(source, LONG_GAP)).numbers, [4n, 5n]);
  }));

test("segments that one record fills are tied by what is left of it", () =>
  onSimDisk(async (machine) => {
    const records = [{ totalBytes: 5000 }, { totalBytes: 4 * MIB }, { totalBytes: 2 * MIB }];
    const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
    const other = buildWal({
      startLsn: START,
      segmentBytes: MIB,
      records: [{ totalBytes: 5000 }, { totalBytes: 4 * MIB + 800 }, { totalBytes: 2 * MIB }],
    }).segments;
    await makeArchive(machine.disk);
    for (const number of [3, 6]) {
      await bring(
        machine.disk,
        names(number, number + 1)[0]!,
        filesOf((one) => segments[one - 3]!, [number]),
      );
    }
    const filler = await fillerOf(machine.disk);
    const from = (wal: readonly Uint8Array[]) =>
      new CopySource(peerOf(filesOf((one) => wal[one - 3]!, [4, 5])), filler, {
        name: "peer",
        places: "all",
      });
    assert.match((await bringFrom(from(other))).said ?? "", /does not continue it: it goes on with another/);
    assert.deepEqual((await bringFrom(from(segments))).numbers, [5n, 4n]);
  }));

for (const [form, files] of [["", segmentOf(2)], [".lz4", lz4Of(segmentOf(2))]] as const) {
  test(`a gap is not filled with the room that receiving keeps free: ${THIRD}${form}`, () =>
    onSimDisk(async (machine) => {
      await archiveWithGap(machine.disk);
      const filler = await fillerOf(machine.disk, { kind: "bytes", bytes: 10 * MIB });
      const peer = peerOf({ [THIRD + form]: files });
      const source = new CopySource(peer, filler, { name: "peer", places: "all" });
      // Two segments more than the minimum, as receiving wants that was short of room, and what is written here.
      const wanted = (12 + (form === "" ? 1 : 2)) * MIB;
      machine.sim.freeBytes = wanted - 1;
      machine.operations.length = 0;
      await assert.rejects(bringFrom(source), /no room, want 12582912 bytes free/);
      assert.deepEqual(machine.operations.filter((line) => /^(create|write|link)/.test(line)), []);
      machine.sim.freeBytes = wanted;
      assert.deepEqual((await bringFrom(source)).numbers, [5n]);
    }));
}
