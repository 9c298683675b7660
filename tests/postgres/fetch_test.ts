import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FORM_OF_FORMAT, PieceCompressor } from "../../lib/archive/compression.ts";
import { encodeGapRecord } from "../../lib/archive/gaps.ts";
import { parseHistory } from "../../lib/wal/history.ts";
import { advance, formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type BackupCopy, type Cluster, startCluster } from "./cluster.ts";
import { ArchiveFiles, caughtUp, MIB, segmentOf, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { makeReadable, readableArchive, RecoveringServer, restoreCommand } from "./restorer.ts";
import { findProgram, findServerPrograms, TEST_MAJOR } from "./servers.ts";
import { contentOf, Ledger, missingOn, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", checkpoint_timeout: "1h", max_wal_size: "2GB" };

let rows = 0;
/** Rows that fill a bit more than two small segments, or fewer. */
async function write(cluster: Cluster, count = 600): Promise<void> {
  const first = rows;
  rows += count;
  await cluster.sql(
    `INSERT INTO work SELECT n, repeat(md5(n::text), 100) FROM generate_series(${first}, ${rows - 1}) n`,
  );
}

function compressed(bytes: Uint8Array): Uint8Array {
  const compressor = new PieceCompressor({ format: "zstd", level: 1 });
  return new Uint8Array(Buffer.concat([...compressor.push(bytes), ...compressor.end()]));
}

interface Received {
  readonly archive: ArchiveFiles;
  readonly backup: BackupCopy;
  /** Where the last received record ends. */
  readonly endLsn: Lsn;
  readonly content: string;
}

/** A base copy, and an archive that goes on to somewhere inside a segment. */
async function receive(primary: Cluster, directory: WorkDirectory, path: string): Promise<Received> {
  await primary.sql(TABLE);
  const archive = new ArchiveFiles(path, segmentBytes);
  await using receiver = startReceiver({ connection: primary.conninfo(), archive: path });
  await receiver.next("streaming");
  await write(primary, 300);
  const backup = await primary.backup(directory.file("backup"));
  await write(primary);
  await primary.sql("SELECT pg_switch_wal()");
  await write(primary);
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0);
  const content = await contentOf(primary);
  return { archive, backup, endLsn: lastRecordEnd(archive), content };
}

function lastRecordEnd(archive: ArchiveFiles, timeline = 1): Lsn {
  const ends = [...archive.growing(), ...archive.saved()].filter((file) => file.timeline === timeline)
    .map((file) => archive.scan(file).endLsn);
  return ends.reduce((a, b) => a > b ? a : b);
}

test("recovery through fetch promotes exactly at the last received byte", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  const path = readableArchive(directory);
  const { archive, backup, endLsn, content } = await receive(primary, directory, path);
  const recover = async (prepare: (dataDirectory: string) => void = () => {}) => {
    const server = await RecoveringServer.start({ backup, restoreCommand: restoreCommand(path), prepare });
    await server.recovered();
    server.assertClean();
    return server;
  };
  {
    await using server = await recover();
    assert.equal(await contentOf(server.cluster), content);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn), server.log);
    assert.match(server.log, new RegExp(`is delivered up to ${formatLsn(endLsn)}, where its timeline ends`));
  }
  const tail = archive.growing().find((file) => file.name === segmentOf(endLsn, archive))!;
  {
    // The receiver was killed, came again, and had received less of it by then.
    const saved = `${tail.path}.saved-1`;
    fs.renameSync(tail.path, saved);
    fs.writeFileSync(tail.path, new Uint8Array(fs.readFileSync(saved)).fill(0, 8192));
    makeReadable(tail.path);
    await using server = await recover();
    assert.equal(await contentOf(server.cluster), content);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn));
    fs.renameSync(saved, tail.path);
  }
  // What only the server has: its own file goes further than the tail.
  await write(primary, 20);
  const own = parseLsn(await primary.value("SELECT pg_current_wal_flush_lsn()"));
  assert.equal(segmentOf(own, archive), tail.name, "in the same segment");
  const longer = await contentOf(primary);
  await primary.kill();
  {
    const ownWal = join(primary.dataDirectory, "pg_wal", tail.name);
    await using server = await recover((data) => {
      fs.copyFileSync(ownWal, join(data, "pg_wal", tail.name));
      makeReadable(join(data, "pg_wal", tail.name));
    });
    assert.equal(await contentOf(server.cluster), longer);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(own));
  }
});

test("recovery through fetch takes compressed segments of every kind", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  const path = readableArchive(directory);
  const { archive, backup, endLsn, content } = await receive(primary, directory, path);
  const formats = ["zstd", "gzip", "lz4"] as const;
  for (const [index, file] of archive.complete().entries()) {
    const format = formats[index % 3]!;
    const compressor = new PieceCompressor({ format, level: 1 });
    const target = file.path + FORM_OF_FORMAT[format];
    const pieces = [...compressor.push(fs.readFileSync(file.path)), ...compressor.end()];
    fs.writeFileSync(target, Buffer.concat(pieces));
    makeReadable(target);
    fs.rmSync(file.path);
  }
  await using server = await RecoveringServer.start({ backup, restoreCommand: restoreCommand(path) });
  await server.recovered();
  assert.equal(await contentOf(server.cluster), content);
  assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn));
});

const original = findProgram(findServerPrograms(TEST_MAJOR), "pg_receivewal");

test("recovery through fetch takes directories of pg_receivewal, partial files included", {
  timeout,
  skip: original === undefined || TEST_MAJOR < 15 ? "needs pg_receivewal of 15 or newer" : false,
}, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  await primary.sql(TABLE);
  for (const compression of ["none", "gzip:1", "lz4"]) {
    const name = compression.slice(0, 4);
    const path = readableArchive(directory, name);
    const options = [`--directory=${path}`, `--dbname=${primary.conninfo({ application_name: name })}`];
    const receiver = spawn(original!, [...options, "--synchronous", `--compress=${compression}`], {
      stdio: "ignore",
    });
    const ended = once(receiver, "close");
    const caughtUp = async () => {
      const end = await primary.value("SELECT pg_current_wal_flush_lsn()");
      await until(`${name} having WAL up to ${end}`, async () => {
        const rows = await primary.sql(
          `SELECT FROM pg_stat_replication WHERE application_name = '${name}' AND flush_lsn >= '${end}'`,
        );
        return rows.length > 0;
      });
      return end;
    };
    await until(
      `${name} streaming`,
      async () =>
        await primary.value(`SELECT count(*) FROM pg_stat_replication WHERE application_name = '${name}'`) ===
          "1",
    );
    await write(primary, 300);
    const backup = await primary.backup(directory.file(`backup-${name}`));
    await write(primary);
    const end = await caughtUp();
    const content = await contentOf(primary);
    receiver.kill("SIGKILL");
    await ended;
    assert.ok(fs.readdirSync(path).some((file) => file.endsWith(".partial")));
    for (const file of fs.readdirSync(path)) makeReadable(`${path}/${file}`);
    await using server = await RecoveringServer.start({ backup, restoreCommand: restoreCommand(path) });
    await server.recovered();
    assert.equal(await contentOf(server.cluster), content, compression);
    assert.ok(server.switchPoint(2) >= parseLsn(end));
  }
});

test("whatever is wrong with the archive, a recovering server never promotes", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  await using stranger = await startCluster({ segmentBytes, settings });
  const path = readableArchive(directory);
  const { archive, backup, endLsn, content } = await receive(primary, directory, path);
  const after = segmentOf(parseLsn(backup.endLsn), archive);
  const [victim, next] = archive.complete().filter((file) => file.name > after);
  assert.ok(victim !== undefined && next !== undefined);
  const whole = fs.readFileSync(victim.path);
  const changed = (change: (bytes: Uint8Array) => Uint8Array | void) => () => {
    const bytes = new Uint8Array(whole);
    fs.writeFileSync(victim.path, change(bytes) ?? bytes);
  };
  await stranger.sql(TABLE);
  const past = formatLsn(archive.startLsn(next));
  while (await stranger.value(`SELECT pg_current_wal_lsn() > '${past}'`) !== "true") await write(stranger);
  const faults: Readonly<Record<string, readonly [make: () => void, undo: () => void, text: RegExp]>> = {
    "not there": [
      () => fs.renameSync(path, `${path}.away`),
      () => fs.renameSync(`${path}.away`, path),
      /no such directory/,
    ],
    "not mounted": [
      () => {
        fs.renameSync(path, `${path}.away`);
        fs.mkdirSync(path);
      },
      () => {
        fs.rmdirSync(path);
        fs.renameSync(`${path}.away`, path);
      },
      /it has no archive.json and no WAL/,
    ],
    "not readable": [() => fs.chmodSync(path, 0o700), () => fs.chmodSync(path, 0o2750), /EACCES|permission/i],
    "a hole": [
      () => fs.rmSync(victim.path),
      changed(() => {}),
      /is not there, but .* of the same timeline is there/,
    ],
    "a recorded gap, and nothing from behind it": [
      () => {
        const startLsn = segmentFloor(endLsn, archive.segmentSize);
        const range = { timeline: timelineId(1), startLsn, endLsn: advance(startLsn, 2 * segmentBytes) };
        const said = { recordedAt: "now", reason: "no server has it any more", server: "", answer: "" };
        fs.writeFileSync(join(path, "gaps.jsonl"), encodeGapRecord({ ...range, ...said }));
        makeReadable(join(path, "gaps.jsonl"));
      },
      () => fs.rmSync(join(path, "gaps.jsonl")),
      /but more was written, as gaps\.jsonl tells .*no server has it any more.* walvault gap list/,
    ],
    "a segment cut off": [
      changed((bytes) => bytes.subarray(0, MIB - 8192)),
      changed(() => {}),
      /1040384 bytes, want/,
    ],
    "a changed byte in a page header": [
      changed((bytes) => void (bytes[9]! ^= 1)),
      changed(() => {}),
      /page address/,
    ],
    "a compressed segment cut off": [
      () => {
        fs.rmSync(victim.path);
        fs.writeFileSync(`${victim.path}.zst`, compressed(whole).subarray(0, -1));
        makeReadable(`${victim.path}.zst`);
      },
      () => {
        fs.rmSync(`${victim.path}.zst`);
        fs.writeFileSync(victim.path, whole);
      },
      /Cannot read ".*\.zst": it is cut off/,
    ],
    "another cluster's segment": [
      changed(() => new Uint8Array(fs.readFileSync(join(stranger.dataDirectory, "pg_wal", victim.name)))),
      changed(() => {}),
      /system identifier [0-9]+, want [0-9]+: it is of another cluster/,
    ],
    "a bad history": [
      () => {
        fs.writeFileSync(join(path, "00000002.history"), "1\t0/30");
        makeReadable(join(path, "00000002.history"));
      },
      () => fs.rmSync(join(path, "00000002.history")),
      /00000002\.history": its last line is cut off/,
    ],
  };
  for (const [name, [make, undo, text]] of Object.entries(faults)) {
    make();
    await using server = await RecoveringServer.start({ backup, restoreCommand: restoreCommand(path) });
    await server.ended();
    assert.match(server.log, text, `${name}: ${server.log}`);
    server.assertNotPromoted();
    undo();
    makeReadable(victim.path);
  }
  // Nothing was wrong but that.
  await using server = await RecoveringServer.start({ backup, restoreCommand: restoreCommand(path) });
  await server.recovered();
  assert.equal(await contentOf(server.cluster), content);
  assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn));
});

test(
  "a standby outlives outage, hole and damage, and catches up when they are healed",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using primary = await startCluster({ segmentBytes, settings });
    const path = readableArchive(directory);
    await primary.sql(TABLE);
    const archive = new ArchiveFiles(path, segmentBytes);
    await using receiver = startReceiver({ connection: primary.conninfo(), archive: path });
    await receiver.next("streaming");
    const backup = await primary.backup(directory.file("backup"));
    await using standby = await RecoveringServer.start({
      backup,
      restoreCommand: restoreCommand(path),
      signal: "standby.signal",
    });
    /** An idle server writes a little too, which is not received while nothing receives. */
    const follows = async (end: string) => {
      await until(`the standby having replayed ${end}`, async () => {
        assert.ok(standby.isUp, standby.log);
        return await standby.cluster.value(`SELECT pg_last_wal_replay_lsn() >= '${end}'`) === "true";
      });
      assert.equal(await contentOf(standby.cluster), await contentOf(primary));
    };
    await write(primary);
    await follows(await caughtUp(primary, receiver));
    /** Makes it ask for what is missing, a few times. */
    const suffers = async (text: string) => {
      const before = standby.countInLog(text);
      await until(`"${text}" a few times`, () => standby.countInLog(text) >= before + 3);
      assert.ok(standby.isUp);
      standby.assertNotPromoted("standby.signal");
    };
    assert.equal(await receiver.stop(), 0);
    fs.renameSync(path, `${path}.away`);
    await suffers("there is no such directory");
    fs.renameSync(`${path}.away`, path);

    const aside = directory.file("aside");
    for (const damage of [false, true]) {
      // The archive grows where the standby can't see it; one segment is then missing, or damaged.
      fs.renameSync(path, `${path}.away`);
      await using again = startReceiver({ connection: primary.conninfo(), archive: `${path}.away` });
      const before = new Set(
        new ArchiveFiles(`${path}.away`, segmentBytes).complete().map((file) => file.name),
      );
      await write(primary);
      await write(primary);
      const end = await caughtUp(primary, again);
      assert.equal(await again.stop(), 0);
      const fresh = new ArchiveFiles(`${path}.away`, segmentBytes).complete().filter((file) =>
        !before.has(file.name)
      );
      const victim = fresh[1]!;
      fs.renameSync(victim.path, aside);
      if (damage) {
        const bytes = new Uint8Array(fs.readFileSync(aside));
        bytes[9]! ^= 1;
        fs.writeFileSync(victim.path, bytes);
        makeReadable(victim.path);
      }
      fs.renameSync(`${path}.away`, path);
      await suffers(damage ? "page address" : `${victim.name} is not there, but`);
      fs.rmSync(join(path, victim.name), { force: true });
      fs.renameSync(aside, join(path, victim.name));
      await follows(end);
    }
    // And with it the tail, without waiting for the end of a segment.
    assert.ok(archive.growing().length > 0);
    await standby.cluster.promote();
    assert.equal(await contentOf(standby.cluster), await contentOf(primary));
  },
);

test("recovery through fetch follows a promotion", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(TABLE);
  await using b = await a.createStandby({ name: "b" });
  const path = readableArchive(directory);
  const archive = new ArchiveFiles(path, segmentBytes);
  const connection = a.conninfo({
    host: `${a.host},${b.host}`,
    port: `${a.port},${b.port}`,
    target_session_attrs: "primary",
  });
  await using receiver = startReceiver({ connection, archive: path });
  await receiver.next("streaming");
  const backup = await a.backup(directory.file("backup"));
  await write(a);
  await caughtUp(a, receiver);
  await a.stop("fast");
  await b.promote();
  await receiver.next("streaming", { timeline: 2 });
  await write(b);
  await caughtUp(b, receiver);
  const content = await contentOf(b);
  assert.equal(await receiver.stop(), 0);
  await using server = await RecoveringServer.start({
    backup,
    restoreCommand: restoreCommand(path),
    settings: { recovery_target_timeline: "latest" },
  });
  await server.recovered();
  assert.equal(await contentOf(server.cluster), content);
  assert.equal(formatLsn(server.switchPoint(3)), formatLsn(lastRecordEnd(archive, 2)), server.log);
});

for (const place of ["inside a segment", "at a segment's boundary"] as const) {
  test(`a standby follows a promotion through fetch only, with a fork ${place}`, { timeout }, async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    await a.sql(TABLE);
    await using b = await a.createStandby({ name: "b" });
    const path = readableArchive(directory);
    const archive = new ArchiveFiles(path, segmentBytes);
    const hidden = `${path}.away`;
    const replayed = async (standby: Cluster, end: string) =>
      await until(
        `the standby having replayed ${end}`,
        async () => await standby.value(`SELECT pg_last_wal_replay_lsn() >= '${end}'`) === "true",
      );
    const flushLsn = () => a.value("SELECT pg_current_wal_flush_lsn()");
    const receive = async (server: Cluster, into: string, act: () => Promise<void>) => {
      await using receiver = startReceiver({ connection: server.conninfo(), archive: into });
      await receiver.next("streaming");
      await act();
      await caughtUp(server, receiver);
      assert.equal(await receiver.stop(), 0);
    };
    let backup: BackupCopy | undefined;
    await receive(a, path, async () => {
      backup = await a.backup(directory.file("backup"));
      await write(a);
      if (place === "at a segment's boundary") await a.sql("SELECT pg_switch_wal()");
    });
    const before = await flushLsn();
    await using standby = await RecoveringServer.start({
      backup: backup!,
      restoreCommand: restoreCommand(path),
      signal: "standby.signal",
      settings: { recovery_target_timeline: "latest" },
    });
    assert.ok(standby.isUp, standby.log);
    for (const each of [b, standby.cluster]) await replayed(each, before);
    await b.configure({ primary_conninfo: "" });

    // Where the standby can't see it, the old timeline goes on, past the fork; and the new one begins.
    fs.renameSync(path, hidden);
    await receive(a, hidden, () => write(a));
    await a.kill();
    await b.promote();
    await receive(b, hidden, () => write(b));
    const [fork] = parseHistory(timelineId(2), fs.readFileSync(join(hidden, "00000002.history"))).entries;
    const atBoundary = fork!.endLsn % BigInt(segmentBytes) === 0n;
    assert.equal(atBoundary, place === "at a segment's boundary", formatLsn(fork!.endLsn));
    const name = segmentOf(fork!.endLsn, archive);
    const first = name.replace(/^00000001/, "00000002");
    assert.ok(fs.existsSync(join(hidden, name)), "the old timeline's segment goes beyond the fork");

    // The new one's first segment is missing at first: the old one's must not take its place.
    fs.renameSync(join(hidden, first), directory.file("aside"));
    fs.renameSync(hidden, path);
    const refusal = `Cannot deliver ${name} to a standby: timeline 2 left timeline 1 at ${
      formatLsn(fork!.endLsn)
    }`;
    await until("refusals", () => standby.countInLog(refusal) >= 3);
    assert.equal(await standby.cluster.value("SELECT pg_is_in_recovery()::text"), "true");
    fs.renameSync(directory.file("aside"), join(path, first));
    await replayed(standby.cluster, await b.value("SELECT pg_current_wal_flush_lsn()"));
    assert.equal(await contentOf(standby.cluster), await contentOf(b));
    await standby.cluster.promote();
    assert.equal(formatLsn(standby.switchPoint(3)), formatLsn(lastRecordEnd(archive, 2)), standby.log);
  });
}

test("a warm standby kept up by fetch --wait comes up with the tail", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  await primary.sql(TABLE);
  const path = readableArchive(directory);
  const archive = new ArchiveFiles(path, segmentBytes);
  await using receiver = startReceiver({ connection: primary.conninfo(), archive: path });
  await receiver.next("streaming");
  await primary.configure({ synchronous_standby_names: "walvault" });
  const backup = await primary.backup(directory.file("backup"));
  const trigger = directory.file("promote");
  await using ledger = new Ledger(primary, { clients: 2, payloadBytes: 2000, pauseMs: 2 });
  await using standby = await RecoveringServer.start({
    backup,
    restoreCommand: restoreCommand(path, ["--wait", `--trigger=${trigger}`, "--poll-interval=0.1"]),
    settings: { recovery_target_timeline: "latest", synchronous_standby_names: "" },
  });
  await until("some segments", () => archive.complete().length >= 6);
  await until("the warm standby asking for the growing one", async () => {
    const replayed = await standby.cluster.value("SELECT pg_last_wal_replay_lsn()");
    return parseLsn(replayed) > archive.startLsn(archive.complete().at(-3)!);
  });
  await primary.kill();
  await ledger.stop();
  assert.equal(await receiver.stop(), 0);
  standby.assertNotPromoted();
  assert.equal(await standby.cluster.value("SELECT pg_is_in_recovery()::text"), "true");
  fs.writeFileSync(trigger, "");
  makeReadable(trigger);
  await standby.recovered();
  assert.ok(ledger.acknowledged.size > 100);
  assert.deepEqual(await missingOn(standby.cluster, [ledger]), []);
  assert.equal(formatLsn(standby.switchPoint(2)), formatLsn(lastRecordEnd(archive)), standby.log);
});
