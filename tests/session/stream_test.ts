import assert from "node:assert/strict";
import { readSync } from "node:fs";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ConnectionError, ServerError } from "../../lib/protocol/errors.ts";
import { connect } from "../../lib/session/connect.ts";
import type { Session } from "../../lib/session/session.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import { type Lsn, parseLsn, ZERO_LSN } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { Counting, settingsFor, SILENT, SLOW, tcpHost, until } from "./support.ts";

const MIB = 1024 * 1024;

describe("Session", SLOW, () => {
  let cluster: Cluster;
  let source: Session;

  before(async () => {
    cluster = await startCluster({
      segmentBytes: MIB,
      settings: { wal_keep_size: "200MB", wal_level: "logical" },
    });
    source = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
  }, SLOW);

  after(async () => {
    await source.close();
    await cluster.destroy();
  }, SLOW);

  const flushLsn = async () => parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
  const segmentStart = (lsn: Lsn) => (lsn - lsn % BigInt(MIB)) as Lsn;
  /** Connections that stream; an idle one has the state "startup". */
  const streams = "FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')";
  const emit = (bytes: number) =>
    cluster.sql(`SELECT pg_switch_wal(); SELECT pg_logical_emit_message(true, 'x', repeat('x', ${bytes}))`);

  it("satisfies WalSource by shape", SLOW, () => {
    const asSource: WalSource = source;
    assert.equal(asSource.address, `127.0.0.1:${cluster.port}`);
    assert.equal(Math.floor(asSource.serverVersion / 10_000), cluster.major);
  });

  it("identifySystem() and show() tell the server's own words", SLOW, async () => {
    const { systemIdentifier, timeline } = await source.identifySystem();
    const sql = "SELECT system_identifier FROM pg_control_system()";
    assert.equal(String(systemIdentifier), await cluster.value(sql));
    assert.equal(timeline, 1);
    assert.equal(await source.show("wal_segment_size"), "1MB");
    await assert.rejects(source.show("no_such"), (error) => {
      assert.ok(error instanceof ServerError);
      assert.equal(error.sqlState, "42704");
      assert.match(
        error.message,
        /^Cannot show no_such of 127\.0\.0\.1:\d+: server says ERROR 42704: unrecognized/,
      );
      return true;
    });
    await assert.rejects(source.show("a; b"), RangeError);
  });

  it("commands sent together are answered in order", SLOW, async () => {
    const answers = await Promise.all([
      source.show("wal_segment_size"),
      source.show("no_such").catch((error) => error.sqlState),
      source.identifySystem().then(({ timeline }) => timeline),
      source.show("wal_level"),
    ]);
    assert.deepEqual(answers, ["1MB", "42704", 1, "logical"]);
  });

  it("slots are made with WAL reserved, read, and dropped", SLOW, async () => {
    assert.equal(await source.readSlot("s1"), undefined);
    await source.createSlot("s1");
    const slot = await source.readSlot("s1");
    assert.equal(slot?.kind, "physical");
    assert.ok(slot?.restartLsn !== undefined && slot.restartLsn > 0n);
    assert.equal(slot.restartTimeline, cluster.major >= 15 ? 1 : undefined);
    await assert.rejects(
      source.createSlot("s1"),
      (error) => error instanceof ServerError && error.sqlState === "42710",
    );
    await source.dropSlot("s1");
    await assert.rejects(
      source.dropSlot("s1"),
      (error) => error instanceof ServerError && error.sqlState === "42704",
    );
    await assert.rejects(source.createSlot("S-1"), RangeError);
  });

  it("readSlot() tells a logical slot and one that reserves nothing", SLOW, async () => {
    await cluster.sql("SELECT pg_create_logical_replication_slot('lg', 'pgoutput')");
    await cluster.sql("SELECT pg_create_physical_replication_slot('bare')");
    assert.equal((await source.readSlot("lg"))?.kind, "logical");
    const bare = { kind: "physical", restartLsn: undefined, restartTimeline: undefined };
    assert.deepEqual(await source.readSlot("bare"), bare);
    await cluster.sql("SELECT pg_drop_replication_slot('lg'), pg_drop_replication_slot('bare')");
  });

  it("timelineHistory() is undefined when the server has none", SLOW, async () => {
    assert.equal(await source.timelineHistory(timelineId(7)), undefined);
  });

  it("streams the bytes of pg_wal, reports status, stops, and takes commands again", SLOW, async () => {
    const startLsn = segmentStart(await flushLsn());
    await emit(3 * MIB);
    const endLsn = await flushLsn();
    await source.createSlot("s2");
    const handler = new Counting();
    const stream = await source.startReplication({ slot: "s2", startLsn, timeline: timelineId(1) }, handler);
    await handler.reached(endLsn);
    stream.sendStatus({ writeLsn: endLsn, flushLsn: endLsn, replyRequested: true });
    await until(() => handler.repliesAsked + handler.drained > 0);
    const seen = async () =>
      await cluster.sql<{ w: string; f: string; r: string }>(
        `SELECT write_lsn::text w, flush_lsn::text f, replay_lsn::text r ${streams}`,
      );
    await until(async () => (await seen())[0]?.f !== null);
    const [row] = await seen();
    assert.equal(parseLsn(row!.f), endLsn);
    assert.equal(row!.r, null);
    stream.stop();
    stream.stop();
    assert.deepEqual(await stream.ended, { kind: "stopped" });
    stream.sendStatus({ writeLsn: ZERO_LSN, flushLsn: ZERO_LSN, replyRequested: false });
    assert.equal((await source.readSlot("s2"))?.restartLsn, endLsn);
    await source.dropSlot("s2");
  });

  it("sees a commit at once", SLOW, async () => {
    const startLsn = await flushLsn();
    const handler = new Counting();
    const stream = await source.startReplication(
      { slot: undefined, startLsn, timeline: timelineId(1) },
      handler,
    );
    for (let i = 0; i < 5; i++) {
      await cluster.sql("SELECT txid_current()");
      await handler.reached(await flushLsn());
    }
    assert.ok(handler.drained > 0);
    stream.stop();
    await stream.ended;
  });

  it(
    "lends its socket where the runtime leaves it alone, and goes on behind what was taken",
    SLOW,
    async () => {
      const startLsn = await flushLsn();
      const handler = new Counting();
      const stream = await source.startReplication(
        { slot: undefined, startLsn, timeline: timelineId(1) },
        handler,
      );
      await cluster.sql("SELECT txid_current()");
      await handler.reached(await flushLsn());
      await sleep(300);
      const loan = stream.lend?.();
      if (process.versions["bun"] === undefined) {
        assert.equal(loan, undefined);
      } else {
        assert.ok(loan !== undefined);
        const { bytes, nextLsn: lentAtLsn } = handler;
        await emit(1000);
        await sleep(300);
        assert.equal(handler.bytes, bytes, "the runtime does not read");
        const buffer = new Uint8Array(1 << 20);
        const count = readSync(loan.descriptor, buffer, 0, buffer.length, null);
        const view = new DataView(buffer.buffer);
        const firstBytes = view.getUint32(1) + 1;
        assert.deepEqual([buffer[0], buffer[5], view.getBigUint64(6)], [0x64, 0x77, lentAtLsn]);
        // As if the first message had been dealt with elsewhere.
        const nextLsn = (lentAtLsn! + BigInt(firstBytes - 30)) as Lsn;
        handler.nextLsn = nextLsn;
        const rest = buffer.slice(firstBytes, count);
        loan.giveBack({ nextLsn, rest, tornStatus: false, serverEndLsn: nextLsn, heardCount: 1 });
      }
      await emit(1000);
      await handler.reached(await flushLsn());
      stream.stop();
      assert.deepEqual(await stream.ended, { kind: "stopped" });
      assert.equal(stream.lend?.(), undefined, "there is nothing left to lend");
    },
  );

  it("pause() stops the reading, and status still goes out", SLOW, async () => {
    await cluster.configure({ wal_sender_timeout: "2s" });
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const startLsn = segmentStart(await flushLsn());
    await emit(20 * MIB);
    const endLsn = await flushLsn();
    const handler = new Counting();
    const stream = await other.startReplication(
      { slot: undefined, startLsn, timeline: timelineId(1) },
      handler,
    );
    // At once: a fast machine has it all read before a timer comes.
    stream.pause();
    await sleep(200);
    const before = handler.bytes;
    for (let i = 0; i < 8; i++) {
      await sleep(500);
      const writeLsn = (startLsn + BigInt(i)) as Lsn;
      stream.sendStatus({ writeLsn, flushLsn: ZERO_LSN, replyRequested: false });
    }
    assert.equal(handler.bytes, before);
    assert.ok(before < 20 * MIB, `${before} bytes came before the pause`);
    const told = await cluster.value(`SELECT write_lsn ${streams}`);
    assert.equal(parseLsn(told), startLsn + 7n);
    stream.resume();
    await handler.reached(endLsn);
    stream.stop();
    await stream.ended;
    await other.close();
    await cluster.configure({ wal_sender_timeout: "60s" });
  });

  it("a refused start rejects, and the connection stays good", SLOW, async () => {
    const handler = new Counting();
    const start = { slot: "none", startLsn: await flushLsn(), timeline: timelineId(1) };
    await assert.rejects(
      source.startReplication(start, handler),
      (error) => error instanceof ServerError && error.sqlState === "42704",
    );
    await assert.rejects(
      source.startReplication({ ...start, slot: undefined, timeline: timelineId(9) }, handler),
      ServerError,
    );
    // These two come when the stream has begun.
    const ahead = { ...start, slot: undefined, startLsn: parseLsn("FF/0") };
    const removed = { ...start, slot: undefined, startLsn: parseLsn("0/100000") };
    await assert.rejects(ended(source, ahead), /is ahead of the WAL flush position/);
    await assert.rejects(
      ended(source, removed),
      (error) => error instanceof ServerError && error.sqlState === "58P01",
    );
    assert.equal(await source.show("wal_segment_size"), "1MB");
  });

  it("what the handler throws fails the stream and the connection", SLOW, async () => {
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const boom = new Error("boom");
    const handler = new Counting();
    handler.onWal = () => {
      throw boom;
    };
    const startLsn = segmentStart(await flushLsn());
    await emit(10);
    const stream = await other.startReplication(
      { slot: undefined, startLsn, timeline: timelineId(1) },
      handler,
    );
    await assert.rejects(stream.ended, boom);
    await assert.rejects(other.identifySystem(), ConnectionError);
    await other.close();
  });

  it("pg_terminate_backend() gives the server's words", SLOW, async () => {
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const start = { slot: undefined, startLsn: await flushLsn(), timeline: timelineId(1) };
    const stream = await other.startReplication(start, new Counting());
    await until(async () => await cluster.value(`SELECT count(*) ${streams}`) === "1");
    await cluster.sql(`SELECT pg_terminate_backend(pid) ${streams}`);
    await assert.rejects(stream.ended, (error) => {
      assert.ok(error instanceof ServerError, String(error));
      assert.equal(error.sqlState, "57P01");
      assert.equal(error.severity, "FATAL");
      assert.match(
        error.message,
        /^Cannot stream WAL from 127\.0\.0\.1:\d+: server says FATAL 57P01: terminating/,
      );
      return true;
    });
    await assert.rejects(other.identifySystem(), ServerError);
    await other.close();
  });

  it("an idle connection that is terminated says so at the next command", SLOW, async () => {
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    await cluster.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'",
    );
    await until(async () =>
      await cluster.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'") === "0"
    );
    await assert.rejects(
      other.identifySystem(),
      (error) => error instanceof ServerError && error.sqlState === "57P01",
    );
    await other.close();
    // That was this suite's connection too.
    source = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
  });

  it("close() during a stream fails it at once", SLOW, async () => {
    const logged = cluster.log().length;
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const start = { slot: undefined, startLsn: await flushLsn(), timeline: timelineId(1) };
    const stream = await other.startReplication(start, new Counting());
    const rejected = assert.rejects(
      stream.ended,
      (error) => error instanceof ConnectionError && error.kind === "closed",
    );
    const closed = other.close();
    await rejected;
    await closed;
    await other.close();
    await until(async () => await cluster.value(`SELECT count(*) ${streams}`) === "0");
    assert.doesNotMatch(cluster.log().slice(logged), /invalid standby message|unexpected EOF/);
  });

  it("close() of a frozen server takes two seconds, the stream fails at once", SLOW, async () => {
    const other = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const start = { slot: undefined, startLsn: await flushLsn(), timeline: timelineId(1) };
    const stream = await other.startReplication(start, new Counting());
    cluster.suspend();
    try {
      const beganAt = performance.now();
      const closed = other.close();
      await assert.rejects(stream.ended, ConnectionError);
      assert.ok(performance.now() - beganAt < 500);
      await closed;
      assert.ok(performance.now() - beganAt < 4000);
    } finally {
      cluster.resume();
    }
  });
});

async function ended(
  source: Session,
  start: { slot: undefined; startLsn: Lsn; timeline: ReturnType<typeof timelineId> },
) {
  return await (await source.startReplication(start, new Counting())).ended;
}

describe("Session at the end of a timeline", SLOW, () => {
  it("tells the switch, also when the start is exactly there, and goes on", SLOW, async () => {
    await using primary = await startCluster({ segmentBytes: MIB, settings: { wal_keep_size: "100MB" } });
    await using standby = await primary.createStandby();
    await primary.sql("SELECT pg_logical_emit_message(true, 'x', repeat('x', 300000))");
    const wanted = parseLsn(await primary.value("SELECT pg_current_wal_flush_lsn()"));
    await until(async () => parseLsn(await standby.value("SELECT pg_last_wal_receive_lsn()")) >= wanted);
    const source = await connect(settingsFor([tcpHost(standby.port)]), { log: SILENT });
    const { flushLsn, timeline } = await source.identifySystem();
    const startLsn = (flushLsn - flushLsn % BigInt(MIB)) as Lsn;
    const handler = new Counting();
    const stream = await source.startReplication({ slot: undefined, startLsn, timeline }, handler);
    await standby.promote();
    const end = await stream.ended;
    assert.ok(end.kind === "timeline");
    assert.deepEqual([end.nextTimeline, end.switchLsn], [2, handler.nextLsn]);

    const history = await source.timelineHistory(end.nextTimeline);
    assert.match(new TextDecoder().decode(history), /^1\t0\/[0-9A-F]+\t/);

    const again = await source.startReplication(
      { slot: undefined, startLsn: end.switchLsn, timeline },
      handler,
    );
    assert.deepEqual(await again.ended, end);
    again.stop();

    // Stopped on the old timeline before its end: that is no switch.
    let stopEarly = () => {};
    const early = new Counting();
    early.onWal = () => stopEarly();
    const begun = source.startReplication({ slot: undefined, startLsn, timeline }, early);
    const old = await begun;
    stopEarly = () => old.stop();
    assert.ok(["stopped", "timeline"].includes((await old.ended).kind));

    const handler2 = new Counting();
    const next = { slot: undefined, startLsn: end.switchLsn, timeline: end.nextTimeline };
    const stream2 = await source.startReplication(next, handler2);
    await handler2.reached(await currentLsn(standby));
    stream2.stop();
    assert.deepEqual(await stream2.ended, { kind: "stopped" });
    const past = { slot: undefined, startLsn: (end.switchLsn + 8n) as Lsn, timeline };
    await assert.rejects(source.startReplication(past, handler), /is not in this server's history/);
    await source.close();
  });
});

async function currentLsn(cluster: Cluster): Promise<bigint> {
  return parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
}

describe("Session when the server shuts down", SLOW, () => {
  it("gets all WAL, then the end, and does not hold the server up", SLOW, async () => {
    await using cluster = await startCluster({ segmentBytes: MIB });
    const source = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const { flushLsn: startLsn, timeline } = await source.identifySystem();
    const handler = new Counting();
    const stream = await source.startReplication({ slot: undefined, startLsn, timeline }, handler);
    handler.onDrained = () => {
      const lsn = handler.nextLsn;
      if (lsn !== undefined) stream.sendStatus({ writeLsn: lsn, flushLsn: lsn, replyRequested: false });
    };
    await cluster.sql("SELECT txid_current()");
    const stopped = cluster.stop("fast");
    assert.deepEqual(await stream.ended, { kind: "shutdown" });
    await stopped;
    assert.ok((handler.nextLsn ?? 0n) > startLsn);
    await assert.rejects(
      source.identifySystem(),
      (error) => error instanceof ConnectionError && error.kind === "closed",
    );
    await source.close();
  });

  it("a crash is not a shutdown", SLOW, async () => {
    await using cluster = await startCluster({ segmentBytes: MIB });
    const source = await connect(settingsFor([tcpHost(cluster.port)]), { log: SILENT });
    const { flushLsn: startLsn, timeline } = await source.identifySystem();
    const stream = await source.startReplication({ slot: undefined, startLsn, timeline }, new Counting());
    const rejected = assert.rejects(stream.ended, ConnectionError);
    await cluster.kill();
    await rejected;
    await source.close();
  });
});
