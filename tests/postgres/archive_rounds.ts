/**
 * Rounds of the whole road: a stream and an archive_command fill one archive, everything is killed at random, and a
 * server recovers through fetch. A few of them in the fast tests, many in the long ones.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { withPublished } from "../../lib/archive/published.ts";
import { formatLsn, type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { SegmentScanner } from "../../lib/wal/scanner.ts";
import { segmentName, segmentNumberAt, segmentStart } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { Random } from "../simulation/random.ts";
import { type BackupCopy, type Cluster, startCluster } from "./cluster.ts";
import { archiveCommand, archived, initArchive, serverRun } from "./pusher.ts";
import {
  ArchiveFiles,
  caughtUp,
  MIB,
  type Receiver,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { RecoveringServer } from "./restorer.ts";
import { FlushWatch, Ledger, missingOn, TABLE } from "./workload.ts";

/** How many, and what decides everything but the machine's own timing. */
export interface ArchiveRounds {
  readonly rounds: number;
  readonly seed: number;
  /** Takes one line for each asynchronous round, and some at the end. */
  readonly tell: (line: string) => void;
}

/** Rounds that share an archive and a base copy: recovery then replays at most this many. */
const ROUNDS_OF_AN_ARCHIVE = 5;
const SEGMENT_BYTES = MIB;
const SETTINGS = {
  wal_keep_size: "512MB",
  max_wal_size: "2GB",
  archive_mode: "on",
  synchronous_commit: "on",
};

type Misfortune = "kill receiver" | "kill push" | "switch" | "long record";

/** What is to happen in a round, drawn before it begins. */
interface Plan {
  readonly synchronous: boolean;
  readonly receiveCompress: "none" | "zstd" | "lz4";
  readonly push: "none" | "plain" | "zstd";
  readonly misfortunes: readonly {
    readonly what: Misfortune;
    /** After the one before it. */
    readonly afterMs: number;
    /** From the moment it runs to the moment it is killed. */
    readonly killAfterMs: number;
  }[];
  readonly end: "kill primary" | "kill both" | "fail over";
  readonly workMs: number;
  /** Milliseconds from the start of a fetch to its death; that many of them. */
  readonly fetchKills: readonly number[];
}

function drawPlan(random: Random, round: number): Plan {
  const between = (least: number, most: number) => Math.round(random.spread(least, most));
  return {
    synchronous: round % 2 === 1,
    receiveCompress: random.pick(["none", "none", "zstd", "zstd", "lz4"]),
    push: random.pick(["none", "plain", "plain", "plain", "zstd"]),
    misfortunes: Array.from({ length: random.integer(1, 3) }, () => ({
      what: random.pick(["kill receiver", "kill push", "switch", "long record"]),
      afterMs: between(10, 400),
      killAfterMs: between(1, 60),
    })),
    end: random.pick(["kill primary", "kill primary", "kill both", "fail over"]),
    workMs: between(50, 800),
    fetchKills: Array.from({ length: random.pick([0, 0, 0, 1, 2]) }, () => between(1, 60)),
  };
}

/** What an asynchronous round lost at its end: what is lost is what was not yet on its way. */
interface Loss {
  readonly commits: number;
  readonly milliseconds: number;
  readonly bytes: number;
}

/**
 * Runs the rounds. In each, clients commit while the receiver and the archiver work and misfortunes happen; at its end the
 * primary is killed, sometimes after a failover in the middle of the round; then a copy of the base copy recovers from
 * the archive, its fetches killed at times.
 *
 * - In a synchronous round no acknowledged commit is missing in the recovered server, in others none of earlier rounds.
 * - Recovery reaches every record that the primary was told is flushed, and its fetches' deaths never make it promote.
 * - Archives have no conflict, their segments are the server's own, and nothing keeps the archiver from its end.
 */
export async function runArchiveRounds({ rounds, seed, tell }: ArchiveRounds): Promise<void> {
  const random = new Random(seed);
  const road = new Road(tell);
  try {
    await road.begin();
    for (let round = 1; round <= rounds; round++) {
      const plan = drawPlan(random, round);
      const told = `round ${round} of seed ${seed}, ${JSON.stringify(plan)}`;
      try {
        if (round % ROUNDS_OF_AN_ARCHIVE === 1) await road.newArchive();
        await road.round(round, plan);
        if (round % ROUNDS_OF_AN_ARCHIVE === 0 || round === rounds) await road.closeArchive();
      } catch (error) {
        throw new Error(`Failed in ${told}: ${(error as Error).message}\n${road.receiverLog}`, {
          cause: error,
        });
      }
    }
    road.summary();
  } finally {
    await road.destroy();
  }
}

class Road {
  #primary: Cluster | undefined;
  #receiver: Receiver | undefined;
  #directory: WorkDirectory | undefined;
  #archive: ArchiveFiles | undefined;
  #backup: BackupCopy | undefined;
  #ledgers: Ledger[] = [];
  #timeline = 1;
  readonly #losses: Loss[] = [];
  readonly #counts = new Map<string, number>();

  constructor(private readonly tell: (line: string) => void) {}

  get receiverLog(): string {
    return this.#receiver?.stderr ?? "";
  }

  get #server(): Cluster {
    assert.ok(this.#primary);
    return this.#primary;
  }

  get #files(): ArchiveFiles {
    assert.ok(this.#archive);
    return this.#archive;
  }

  #count(what: string, by = 1): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + by);
  }

  async begin(): Promise<void> {
    serverRun(); // builds it, which is no part of a round
    this.#primary = await startCluster({ segmentBytes: SEGMENT_BYTES, settings: SETTINGS });
    await this.#primary.sql(TABLE);
  }

  async destroy(): Promise<void> {
    await this.#receiver?.kill();
    await this.#primary?.destroy();
    this.#directory?.[Symbol.dispose]();
  }

  /** A new archive and base copy, and an empty table: rounds take as long at the end as at the beginning. */
  async newArchive(): Promise<void> {
    await this.#server.configure({ archive_command: "", synchronous_standby_names: "" });
    this.#directory?.[Symbol.dispose]();
    this.#directory = new WorkDirectory();
    this.#archive = initArchive(this.#directory, this.#server, SEGMENT_BYTES);
    this.#ledgers = [];
    await this.#server.sql("TRUNCATE work");
    await this.#startReceiver("none");
    this.#backup = await this.#server.backup(this.#directory.file("backup"));
    await caughtUp(this.#server, this.#receiver!);
    assert.equal(await this.#receiver!.stop(), 0);
  }

  async #startReceiver(compress: Plan["receiveCompress"]): Promise<void> {
    this.#launchReceiver(compress);
    await this.#receiver!.next("streaming", { timeline: this.#timeline });
  }

  #launchReceiver(compress: Plan["receiveCompress"]): void {
    this.#receiver = startReceiver({
      connection: this.#server.conninfo(),
      archive: this.#files.directory,
      options: ["--slot=walvault", "--create-slot", `--compress=${compress}`],
      runBy: serverRun(),
    });
  }

  /** Its receiver is the only one, or with the next primary, whom commits wait for; or nobody. */
  async #name(standbys: string, plan: Plan): Promise<void> {
    // The shell between them tells the archiver of a killed push as of a failed one: it would rest for 10 s otherwise.
    const options = plan.push === "zstd" ? ["--compress=zstd"] : [];
    await this.#server.configure({
      synchronous_standby_names: plan.synchronous ? standbys : "",
      archive_command: plan.push === "none" ? "" : `${archiveCommand(this.#files, options)} || exit 1`,
    });
    if (!plan.synchronous) return;
    const wanted = standbys === "walvault" ? "1" : "2";
    await until("the standbys being synchronous", async () =>
      await this.#server.value(
        "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'",
      ) === wanted);
  }

  async round(round: number, plan: Plan): Promise<void> {
    await this.#startReceiver(plan.receiveCompress);
    // What earlier rounds left to be sent is none of this round's losses.
    await caughtUp(this.#server, this.#receiver!);
    if (plan.end === "fail over") await this.#failOver(round, plan);
    else await this.#name("walvault", plan);

    await using watch = new FlushWatch(this.#server);
    await using ledger = this.#work(`${round}-`);
    for (const misfortune of plan.misfortunes) await this.#suffer(misfortune, plan);
    await sleep(plan.workMs);
    const killedMs = performance.now();
    if (plan.end === "kill both") {
      this.#receiver!.signal("SIGKILL");
      this.#count("receivers killed with the primary");
    }
    await this.#server.kill();
    this.#count("primaries killed");
    const clientsEnd = Promise.all([ledger.stop(), watch.stop()]); // it takes them a second
    if (plan.end !== "kill both") await this.#receiver!.next("disconnected");

    await using recovered = await this.#recover(plan);
    await clientsEnd;
    const missing = await missingOn(recovered.cluster, this.#ledgers);
    const ended = recovered.switchPoint(await timelineOf(recovered.cluster));
    if (plan.synchronous) {
      assert.deepEqual(missing, [], "acknowledged commits are missing");
      this.#count("synchronous rounds");
    } else {
      this.#note(round, { missing, ledger, killedMs, ended });
    }
    if (watch.highest > 0n) {
      const promised = this.#lastRecordBelow(watch.highest);
      assert.ok(
        ended >= promised,
        `flushed up to ${formatLsn(promised)} by its own word, recovered up to ${formatLsn(ended)}`,
      );
    }
    assert.deepEqual(this.#files.conflicts(), []);

    if (plan.end !== "kill both") assert.equal(await this.#receiver!.stop(), 0);
    await this.#receiver!.kill();
    await this.#server.start();
  }

  #work(prefix: string): Ledger {
    const ledger = new Ledger(this.#server, { clients: 3, payloadBytes: 3000, prefix, pauseMs: 1 });
    this.#ledgers.push(ledger);
    return ledger;
  }

  async #suffer({ what, afterMs, killAfterMs }: Plan["misfortunes"][number], plan: Plan): Promise<void> {
    await sleep(afterMs);
    switch (what) {
      case "kill receiver":
        await this.#receiver!.kill();
        this.#launchReceiver(plan.receiveCompress);
        this.#count("receivers killed");
        break;
      case "kill push": {
        if (plan.push === "none") break;
        const killing = killCommand("push", { directory: this.#server.dataDirectory, killAfterMs });
        await this.#server.sql("SELECT pg_switch_wal()");
        if (await killing) this.#count("pushes killed");
        break;
      }
      case "switch":
        await this.#server.sql("SELECT pg_switch_wal()");
        this.#count("switches");
        break;
      case "long record":
        await this.#server.sql(`SELECT pg_logical_emit_message(false, 'w', repeat('w', ${2 * MIB}))`);
        this.#count("long records");
        break;
    }
  }

  /** Commits go on until the primary dies; a standby takes its place, and what it never got is lost with the old one. */
  async #failOver(round: number, plan: Plan): Promise<void> {
    const old = this.#server;
    const standby = await old.createStandby({ name: "next", settings: SETTINGS });
    try {
      await this.#name("2 (walvault, next)", plan);
      const ledger = this.#work(`${round}-before-`);
      await sleep(plan.workMs);
      await old.kill();
      await ledger.stop();
      await standby.promote();
    } catch (error) {
      await standby.destroy();
      throw error;
    }
    await this.#receiver!.kill();
    this.#primary = standby;
    this.#timeline++;
    await old.destroy();
    this.#count("failovers");
    const gone = await missingOn(standby, this.#ledgers);
    if (plan.synchronous) assert.deepEqual(gone, [], "acknowledged commits are missing on the new primary");
    for (const ledger of this.#ledgers) for (const id of gone) ledger.acknowledged.delete(id);
    await this.#startReceiver(plan.receiveCompress);
    if (this.#receiver!.linesOf("archive is ahead of the fork").length > 0) this.#count("archives ahead");
    await caughtUp(this.#server, this.#receiver!);
    await this.#name("walvault", plan);
  }

  /** A fetch that is killed ends recovery, and never by a promotion; the next start goes on. */
  async #recover(plan: Plan): Promise<RecoveringServer> {
    const restoreCommand = [
      serverRun().executable,
      "fetch",
      `--archive=${this.#files.directory}`,
      "%f",
      "%p",
    ].join(" ");
    let running = true;
    let killed = 0;
    let killing: Promise<void> = Promise.resolve();
    const recovered = await RecoveringServer.start({
      backup: this.#backup!,
      restoreCommand,
      settings: { recovery_target_timeline: "latest" },
      prepare: (directory) => {
        killing = (async () => {
          for (const killAfterMs of plan.fetchKills) {
            if (running && await killCommand("fetch", { directory, killAfterMs })) killed++;
          }
        })();
      },
    });
    try {
      for (let starts = 1;; starts++) {
        await until(
          "the end of recovery",
          async () => !recovered.isUp || await inRecovery(recovered.cluster) === "false",
        );
        if (recovered.isUp) break;
        // Histories are in its pg_wal in any case: those that the archive has.
        assert.doesNotMatch(recovered.log, /selected new timeline ID|archive recovery complete/);
        assert.ok(fs.existsSync(join(recovered.cluster.dataDirectory, "recovery.signal")));
        // A shell between them tells of the signal in its own exit code.
        assert.match(
          recovered.log,
          /terminated by signal 9|exited with exit code 137/,
          "recovery ended by itself",
        );
        assert.ok(starts <= plan.fetchKills.length, recovered.log);
        this.#count("recoveries started again");
        await recovered.cluster.start().catch(() => {});
      }
      running = false;
      await killing;
      this.#count("fetches killed", killed);
      recovered.assertClean();
      return recovered;
    } catch (error) {
      running = false;
      const text = `${(error as Error).message}\n${recovered.log}`;
      await recovered.cluster.destroy();
      throw new Error(text, { cause: error });
    }
  }

  #note(
    round: number,
    { missing, ledger, killedMs, ended }: {
      readonly missing: readonly string[];
      readonly ledger: Ledger;
      readonly killedMs: number;
      readonly ended: Lsn;
    },
  ): void {
    const told = missing.map((id) => ledger.acknowledged.get(id));
    assert.ok(told.every((ms) => ms !== undefined), `commits of earlier rounds are missing: ${missing}`);
    const first = Math.min(killedMs, ...told.map((ms) => ms ?? 0));
    const loss = {
      commits: missing.length,
      milliseconds: Math.round(Math.max(0, killedMs - first)),
      bytes: Number(this.#endOfWal(ended) - ended),
    };
    this.#losses.push(loss);
    this.#count("asynchronous rounds");
    this.tell(
      `round ${round}, asynchronous: ${loss.commits} of ${ledger.acknowledged.size} commits lost, ` +
        `${loss.milliseconds} ms, ${loss.bytes} bytes`,
    );
  }

  /** The primary's own segment, up to some place. */
  #scan(startLsn: Lsn, endLsn?: Lsn) {
    const { segmentSize } = this.#files;
    const number = segmentNumberAt(startLsn, segmentSize);
    const name = segmentName(timelineId(this.#timeline), number, segmentSize);
    const path = join(this.#server.dataDirectory, "pg_wal", name);
    if (!fs.existsSync(path)) return undefined;
    const start = segmentStart(number, segmentSize);
    const bytes = endLsn === undefined ? segmentSize : Number(endLsn - start);
    const scanner = new SegmentScanner({ startLsn: start, segmentSize });
    scanner.push(fs.readFileSync(path).subarray(0, bytes));
    return scanner.result();
  }

  /** Where the last record ends that is whole below this place; a long one may begin segments before it. */
  #lastRecordBelow(place: Lsn): Lsn {
    for (let below = place;;) {
      const scan = this.#scan(lsn(below - 1n), below);
      if (scan === undefined) return lsn(0n);
      if (scan.lastRecordLsn !== undefined) return scan.endLsn;
      below = scan.startLsn;
    }
  }

  /** Where the killed primary's WAL ends, which goes up to some place at least. */
  #endOfWal(known: Lsn): Lsn {
    let end = known;
    for (let at = known;;) {
      const scan = this.#scan(at);
      if (scan === undefined) return end;
      if (scan.endLsn > end) end = scan.endLsn;
      if (scan.end !== "segment-end" && scan.end !== "switch") return end;
      at = lsn(scan.startLsn + BigInt(SEGMENT_BYTES));
    }
  }

  /** With everything at peace, the archiver comes to its end, and the archive holds what the server wrote. */
  async closeArchive(): Promise<void> {
    await this.#startReceiver("none");
    await this.#server.configure({
      synchronous_standby_names: "",
      archive_command: archiveCommand(this.#files),
    });
    await this.#server.sql("SELECT pg_switch_wal()");
    await caughtUp(this.#server, this.#receiver!);
    await archived(this.#server);
    assert.equal(await this.#receiver!.stop(), 0);
    const names = fs.readdirSync(this.#files.directory).filter((name) =>
      /^[0-9A-F]{24}(\.(zst|gz|lz4))?$/.test(name)
    ).map((name) => name.slice(0, 24));
    let same = 0;
    for (const name of new Set(names)) {
      const own = join(this.#server.dataDirectory, "pg_wal", name);
      if (!fs.existsSync(own)) continue;
      assert.equal(Buffer.compare(await this.#content(name), fs.readFileSync(own)), 0, `${name} is another`);
      same++;
    }
    assert.ok(same > 0);
    this.#count("segments compared", same);
    const left = fs.readdirSync(join(this.#files.directory, "inprogress"));
    assert.deepEqual(left.filter((name) => /push|tmp/.test(name)), [], "temporary files stay behind");
    assert.deepEqual(this.#files.conflicts(), []);
  }

  async #content(name: string): Promise<Uint8Array> {
    const { directory, segmentSize } = this.#files;
    const content = new Uint8Array(segmentSize);
    await withPublished(openDirectDisk(directory), { name, segmentSize }, async (published) => {
      await published.readThrough((bytes, position) => {
        content.set(bytes, position);
        return "more";
      });
    });
    return content;
  }

  summary(): void {
    const counts = [...this.#counts].map(([what, count]) => `${count} ${what}`);
    this.tell(`in all: ${counts.join(", ")}`);
    if (this.#losses.length === 0) return;
    for (const key of ["commits", "milliseconds", "bytes"] as const) {
      const sorted = this.#losses.map((loss) => loss[key]).sort((a, b) => a - b);
      this.tell(
        `lost ${key} of ${sorted.length} asynchronous rounds: median ${sorted[sorted.length >> 1]}, most ${
          sorted.at(-1)
        }, none in ${sorted.filter((one) => one === 0).length}`,
      );
    }
  }
}

async function inRecovery(cluster: Cluster): Promise<string> {
  // It may end under the question.
  return await cluster.value("SELECT pg_is_in_recovery()::text").catch(() => "unknown");
}

async function timelineOf(cluster: Cluster): Promise<number> {
  return parseInt((await cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")).slice(0, 8), 16);
}

/** Processes of the program under test that a server of this data directory runs. */
function commandsOf(directory: string, verb: string): readonly number[] {
  return fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      const [program, word] = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return program === serverRun().executable && word === verb &&
        fs.readlinkSync(`/proc/${pid}/cwd`) === directory;
    } catch {
      return false; // it ended while we looked
    }
  });
}

/** Kills the next one that is seen to run; `false` when none was, or it was quicker. */
async function killCommand(
  verb: "push" | "fetch",
  { directory, killAfterMs }: { readonly directory: string; readonly killAfterMs: number },
): Promise<boolean> {
  const deadline = performance.now() + 1500;
  while (performance.now() < deadline) {
    const [pid] = commandsOf(directory, verb);
    if (pid !== undefined) {
      await sleep(killAfterMs);
      if (!commandsOf(directory, verb).includes(pid)) return false;
      try {
        process.kill(pid, "SIGKILL");
        return true;
      } catch {
        return false; // it ended between the two lines
      }
    }
    await sleep(3);
  }
  return false;
}
