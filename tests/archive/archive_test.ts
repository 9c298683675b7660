import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Archive, ArchiveError, EMPTY_CONTENTS } from "../../lib/archive/archive.ts";
import { FORMAT_OF_FORM, PieceCompressor } from "../../lib/archive/compression.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { ArchiveConflictError, WrongClusterError } from "../../lib/wal/errors.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { IDENTITY, NAMES, NAMING, onSimDisk, START, walOf } from "./on_sim_disk.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

const userId = process.geteuid?.();

async function onDisk(use: (disk: Disk, root: string) => Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (root) => {
    const disk = openDiskThread(root, 1024);
    try {
      await use(disk, root);
    } finally {
      await disk.close();
    }
  });
}

function open(disk: Disk): Promise<Archive> {
  return Archive.open(disk, { naming: NAMING, userId });
}

async function refused(disk: Disk, want: RegExp): Promise<void> {
  await assert.rejects(open(disk), (error: Error) => {
    assert.ok(error instanceof ArchiveError);
    assert.match(error.message, want);
    return true;
  });
}

test("an empty directory becomes an archive, with what only a look leaves alone", () =>
  onDisk(async (disk, root) => {
    chmodSync(root, 0o700);
    mkdirSync(join(root, "lost+found"));
    writeFileSync(join(root, "lock"), "");
    const archive = await open(disk);
    assert.equal(archive.identity, undefined);
    assert.deepEqual(await archive.contents(), EMPTY_CONTENTS);
    assert.deepEqual(readdirSync(root).sort(), ["lock", "lost+found"]);
    await archive.claim(IDENTITY);
    await archive.claim(IDENTITY);
    assert.deepEqual(archive.identity, IDENTITY);
    assert.deepEqual(readdirSync(root).sort(), ["archive.json", "inprogress", "lock", "lost+found"]);
    assert.equal(statSync(join(root, "inprogress")).mode & 0o777, 0o700);
    assert.equal(statSync(join(root, "archive.json")).mode & 0o777, 0o600);
    assert.deepEqual((await open(disk)).identity, IDENTITY);
  }));

test("the archive directory's group mode decides for all below it", () =>
  onDisk(async (disk, root) => {
    chmodSync(root, 0o750);
    await (await open(disk)).claim(IDENTITY);
    assert.equal(statSync(join(root, "inprogress")).mode & 0o777, 0o750);
    assert.equal(statSync(join(root, "archive.json")).mode & 0o777, 0o640);
  }));

test("Archive.open() refuses what is no archive, and says what to do", async () => {
  await inTemporaryDirectory(async (root) => {
    const path = join(root, "absent");
    const disk = openDiskThread(path, 1024);
    await refused(disk, /absent": there is no such directory; make it with: mkdir -m 700 "/);
    writeFileSync(path, "");
    await refused(disk, /it is a file, want a directory/);
    await disk.close();
  });
  await onDisk(async (disk, root) => {
    writeFileSync(join(root, "b.txt"), "");
    await refused(disk, /it has no archive\.json but 1 other entry \("b\.txt"\); use an empty directory/);
    writeFileSync(join(root, "a.txt"), "");
    for (const name of NAMES.slice(0, 2)) writeFileSync(join(root, name), "");
    await refused(
      disk,
      /but 4 other entries \("000000010000000000000003", "000000010000000000000004", "a\.txt"\)/,
    );
  });
  // An archive whose identity is gone is nobody's empty directory.
  await onDisk(async (disk, root) => {
    mkdirSync(join(root, "inprogress"));
    await refused(disk, /it has no archive\.json but 1 other entry \("inprogress"\)/);
  });
  await onDisk(async (disk, root) => {
    writeFileSync(join(root, "archive.json"), encodeIdentity(IDENTITY).subarray(0, 50));
    await refused(disk, /Cannot read archive\.json: it is no JSON text/);
  });
  await onDisk(async (disk, root) => {
    writeFileSync(join(root, "archive.json"), "x".repeat(5000));
    await assert.rejects(open(disk), /5000 bytes, want at most 4096/);
  });
});

for (const directory of ["inprogress", "conflicts"]) {
  test(`Archive.open() refuses ${directory} that leads elsewhere`, () =>
    onDisk(async (disk, root) => {
      writeFileSync(join(root, "archive.json"), encodeIdentity(IDENTITY));
      symlinkSync("/tmp", join(root, directory));
      await refused(disk, new RegExp(`"${directory}" in it is a symlink, want a directory`));
    }));
}

test("Archive.open() refuses an archive.json that is a symbolic link", () =>
  onDisk(async (disk, root) => {
    writeFileSync(join(root, "elsewhere"), encodeIdentity(IDENTITY));
    symlinkSync("elsewhere", join(root, "archive.json"));
    await assert.rejects(open(disk), (error) => (error as { code?: string }).code === "ELOOP");
  }));

test("Archive.open() refuses another user's archive", () =>
  onSimDisk(async ({ disk }) => {
    // All files there belong to user 1000.
    await (await Archive.open(disk, { naming: NAMING, userId: 1000 })).claim(IDENTITY);
    await assert.rejects(
      Archive.open(disk, { naming: NAMING, userId: 0 }),
      new ArchiveError(
        'Cannot write to the archive "/archive": it belongs to the user with id 1000, this process runs as 0; ' +
          "run walvault as its owner: sudo -u '#1000' walvault …",
      ),
    );
    await Archive.open(disk, { naming: NAMING, userId: undefined });
  }));

test("P5: claim() refuses another cluster and another segment size", () =>
  onDisk(async (disk, root) => {
    await (await open(disk)).claim(IDENTITY);
    const archive = await open(disk);
    await assert.rejects(
      archive.claim({ ...IDENTITY, systemIdentifier: 5n }),
      new WrongClusterError(
        `Cannot archive into "${root}": it belongs to the cluster with system identifier ${IDENTITY.systemIdentifier}, ` +
          `the server has 5; use a new directory for the new cluster, and keep this one with its backups: mkdir -m 700 "${root}-5"`,
      ),
    );
    await assert.rejects(
      archive.claim({ ...IDENTITY, segmentSize: segmentSize(16 << 20) }),
      new WrongClusterError(
        `Cannot archive into "${root}": its segments are of 1MB, the server's of 16MB; use a new directory for the new cluster, and keep this ` +
          `one with its backups: mkdir -m 700 "${root}-16MB"`,
      ),
    );
  }));

test("claim() makes what an earlier process did not get to, and removes what it left", () =>
  onDisk(async (disk, root) => {
    writeFileSync(join(root, "archive.json"), encodeIdentity(IDENTITY));
    writeFileSync(join(root, "archive.json.tmp"), "");
    writeFileSync(join(root, "00000002.history.tmp"), "");
    const archive = await open(disk);
    // Also before `claim`: the receiver looks first.
    assert.deepEqual(await archive.contents(), EMPTY_CONTENTS);
    await archive.claim(IDENTITY);
    assert.deepEqual(readdirSync(root).sort(), ["archive.json", "inprogress"]);
  }));

test("claim() refuses another directory that stands where the archive was", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    for (const name of ["archive.json", "inprogress"]) rmSync(join(root, name), { recursive: true });
    await assert.rejects(
      archive.claim(IDENTITY),
      new WrongClusterError(
        `Cannot go on with the archive "${root}": archive.json is gone; look whether its disk is still mounted there, then start again`,
      ),
    );
    assert.deepEqual(readdirSync(root), []);
    writeFileSync(join(root, "archive.json"), encodeIdentity({ ...IDENTITY, systemIdentifier: 5n }));
    await assert.rejects(archive.claim(IDENTITY), /archive\.json is of another archive/);
  }));

test("claim() removes what was laid ahead and never used, and the other name of what is published", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    const names = ["1", "2", "3", "4"].map((digit) => `00000001000000000000000${digit}`);
    const [unused, published, other, growing] = names.map((name) => join(root, "inprogress", name)) as [
      string,
      string,
      string,
      string,
    ];
    const bytes = new Uint8Array(1 << 20);
    writeFileSync(unused, bytes);
    writeFileSync(`${unused}.saved-1`, bytes);
    bytes[1 << 19] = 1;
    writeFileSync(growing, bytes);
    writeFileSync(join(root, names[1]!), bytes);
    linkSync(join(root, names[1]!), published);
    writeFileSync(join(root, names[2]!), bytes);
    bytes[1 << 19] = 2;
    writeFileSync(other, bytes);
    await archive.claim(IDENTITY);
    assert.deepEqual(readdirSync(join(root, "inprogress")).sort(), [
      `${names[0]}.saved-1`,
      names[2],
      names[3],
    ]);
  }));

test("contents() holds no name for a segment that has another size", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    writeFileSync(join(root, "000000010000000000000001"), new Uint8Array(1 << 20));
    writeFileSync(join(root, "000000010000000000000002"), "");
    mkdirSync(join(root, "000000010000000000000003"));
    const { runs, incomplete } = await archive.contents();
    assert.deepEqual(runs, [{ timeline: 1, firstNumber: 1n, endNumber: 2n }]);
    assert.deepEqual(incomplete, ["000000010000000000000002", "000000010000000000000003"]);
  }));

test("storeHistory() stores once, takes the same again, and keeps another one apart", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    const timeline = timelineId(2);
    const mine = new TextEncoder().encode("1\t0/3000028\tno recovery target specified\n");
    const other = new TextEncoder().encode("1\t0/3000050\tno recovery target specified\n");
    assert.equal(await archive.storeHistory(timeline, mine), "stored");
    assert.equal(await archive.storeHistory(timeline, mine), "present");
    for (let i = 0; i < 2; i++) {
      await assert.rejects(archive.storeHistory(timeline, other), (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /^Cannot store 00000002\.history: the archive has another history of timeline 2/,
        );
        assert.match(error.message, /conflicts\/00000002\.history-[0-9a-f]{8}"; two servers were promoted/);
        return true;
      });
    }
    const [kept, ...more] = readdirSync(join(root, "conflicts"));
    assert.deepEqual(more, []);
    assert.deepEqual(new Uint8Array(readFileSync(join(root, "conflicts", kept!))), other);
    assert.deepEqual(new Uint8Array(readFileSync(join(root, "00000002.history"))), mine);
    const { histories } = await archive.contents();
    assert.deepEqual(histories.map(({ timeline, bytes }) => [timeline, [...bytes]]), [[2, [...mine]]]);
    assert.equal(readdirSync(root).some((name) => name.endsWith(".tmp")), false);
  }));

test("planLeg() tells the records that the next segment may point back to", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    const lineage = emptyHistory(timelineId(1));
    assert.deepEqual((await archive.planLeg(START, lineage)).backLinks, []);
    await archive.claim(IDENTITY);
    assert.deepEqual((await archive.planLeg(START, lineage)).backLinks, []);
    assert.deepEqual((await archive.planLeg(lsn(0n), lineage)).backLinks, []);
    writeFileSync(join(root, NAMES[0]!), walOf({ bytes: MIB }));
    const { backLinks } = await archive.planLeg(lsn(START + BigInt(MIB)), lineage);
    // The open record at the segment's end, and the last whole one.
    assert.equal(backLinks.length, 2);
    for (const link of backLinks) assert.ok(link > START && link < START + BigInt(MIB));
  }));

test("planLeg() looks into compressed segments too, and not into damaged ones", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    const next = lsn(START + BigInt(MIB));
    const lineage = emptyHistory(timelineId(1));
    writeFileSync(join(root, NAMES[0]!), walOf({ bytes: MIB }));
    const { backLinks } = await archive.planLeg(next, lineage);
    rmSync(join(root, NAMES[0]!));
    for (const [form, format] of Object.entries(FORMAT_OF_FORM)) {
      const compressor = new PieceCompressor({ format, level: 1 });
      const file = Buffer.concat([...compressor.push(walOf({ bytes: MIB })), ...compressor.end()]);
      const path = join(root, NAMES[0]! + form);
      writeFileSync(path, file);
      assert.deepEqual((await archive.planLeg(next, lineage)).backLinks, backLinks);
      writeFileSync(path, file.subarray(0, file.length >>> 1));
      assert.deepEqual((await archive.planLeg(next, lineage)).backLinks, []);
      rmSync(path);
    }
  }));

test("claim() holds a leftover in inprogress/ against the compressed segment", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    const inProgress = () => readdirSync(join(root, "inprogress")).sort();
    const wal = walOf({ bytes: MIB });
    for (const name of NAMES.slice(0, 3)) writeFileSync(join(root, "inprogress", name), wal);
    const compressor = new PieceCompressor({ format: "zstd", level: 1 });
    const file = Buffer.concat([...compressor.push(wal), ...compressor.end()]);
    writeFileSync(join(root, `${NAMES[0]}.zst`), file);
    // One that can't be read, and a segment that is not there at all.
    writeFileSync(join(root, `${NAMES[1]}.zst`), file.subarray(0, 5000));
    await archive.claim(IDENTITY);
    assert.deepEqual(inProgress(), NAMES.slice(1, 3));
  }));

test("removeCompressing() removes what a compression left, and nothing else", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.removeCompressing();
    await archive.claim(IDENTITY);
    const kept = [NAMES[0]!, `${NAMES[0]}.saved-1`, `${NAMES[0]}.push-1`, "x.zst.tmp", `${NAMES[0]}.zst`]
      .sort();
    const gone = [`${NAMES[0]}.zst.tmp`, `${NAMES[0]}.gz.tmp`, `${NAMES[1]}.lz4.tmp`];
    for (const name of [...kept, ...gone]) writeFileSync(join(root, "inprogress", name), "x");
    await archive.removeCompressing();
    assert.deepEqual(readdirSync(join(root, "inprogress")).sort(), kept);
  }));

test("planLeg() asks for no link where the record before an open one began in an earlier segment", () =>
  onDisk(async (disk, root) => {
    const archive = await open(disk);
    await archive.claim(IDENTITY);
    // The second segment holds the end of one record and the beginning of another.
    const records = [{ totalBytes: 1_300_000 }, { totalBytes: 1_500_000 }];
    const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
    for (const index of [0, 1]) writeFileSync(join(root, NAMES[index]!), segments[index]!);
    const { backLinks } = await archive.planLeg(lsn(START + 2n * BigInt(MIB)), emptyHistory(timelineId(1)));
    // The server may have given the open record up, and then the first record follows the one before it.
    assert.deepEqual(backLinks, []);
  }));

test("contents() sees a segment whose compressed form takes the plain one's place between two looks", () =>
  inTemporaryDirectory(async (root) => {
    const disk = openDiskThread(root, 1 << 20);
    try {
      const archive = await Archive.open(disk, { naming: { hardLinks: true }, userId: undefined });
      await archive.claim({ systemIdentifier: 7n, segmentSize: segmentSize(MIB) });
      const name = "000000010000000000000005";
      writeFileSync(join(root, name), new Uint8Array(MIB));
      // As a listing sees it that passes behind the new name and before the old one: neither.
      const swapping: Disk = new Proxy(disk, {
        get(target, key) {
          if (key === "list") {
            return async (path: string) => {
              const names = await target.list(path);
              if (path === "." && existsSync(join(root, name))) {
                renameSync(join(root, name), join(root, `${name}.zst`));
              }
              return names;
            };
          }
          if (key === "entries") {
            return async (path: string) =>
              (await target.entries(path))?.filter((entry) => !entry.name.startsWith(name));
          }
          const value = Reflect.get(target, key);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
      const beside = await Archive.open(swapping, { naming: { hardLinks: true }, userId: undefined });
      const { runs } = await beside.contents();
      assert.deepEqual(runs, [{ timeline: 1, firstNumber: 5n, endNumber: 6n }]);
    } finally {
      await disk.close();
    }
  }));

test("contents() believes no name that somebody gave behind the sync of its directory", () =>
  onSimDisk(async (machine) => {
    const archive = await Archive.open(machine.disk, { naming: NAMING, userId: undefined });
    await archive.claim(IDENTITY);
    const [name = ""] = NAMES;
    const file = await machine.disk.create(`inprogress/${name}.push-1`, 0o600);
    await file.write(walOf({ bytes: MIB }), 0);
    await file.sync();
    await file.close();
    await machine.disk.syncDirectory("inprogress");
    const { disk } = archive;
    const sync = disk.syncDirectory.bind(disk);
    disk.syncDirectory = async (path) => {
      await sync(path);
      // Another process, which does not come to its own sync.
      if (path === ".") await machine.disk.link(`inprogress/${name}.push-1`, name).catch(() => {});
    };
    const { runs } = await archive.contents();
    const after = await Archive.open(machine.restart("power cut"), { naming: NAMING, userId: undefined });
    assert.deepEqual((await after.contents()).runs, runs);
  }));
