/** A primary under load, a receiver behind a proxy, its archive on a disk of its own: what faults are injected into. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { type Lsn, lsn, parseLsn } from "../../lib/wal/lsn.ts";
import type { Random } from "../simulation/random.ts";
import { archivedCommits } from "./archived_commits.ts";
import { type BackupCopy, type Cluster, startCluster, TRUST_THIS_MACHINE } from "./cluster.ts";
import { FaultProxy } from "./fault_proxy.ts";
import { longestRestMs } from "./fault_tally.ts";
import { NetworkNamespace, whyNoNamespace } from "./network_namespace.ts";
import {
  ArchiveFiles,
  assertHolds,
  caughtUp,
  checkRecords,
  compareWithServer,
  layOut,
  MIB,
  type Receiver,
  restore,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { SmallDisk, whyNoDisk } from "./small_disk.ts";
import { FlushWatch, Ledger, missingOn, TABLE } from "./workload.ts";
import { whyNoWrongClock, WrongClock } from "./wrong_clock.ts";

const SEGMENT_BYTES = MIB;
const DISK_BYTES = 2048 * MIB;
const SETTINGS = {
  synchronous_commit: "on",
  wal_keep_size: "20GB",
  max_wal_size: "20GB",
  wal_sender_timeout: "5s",
};
/** A receiver does not move its files all the time. */
const MOST_LOOKS = 10;
/** Short ones, so that what has to time out does so while we look. */
const RECEIVER_OPTIONS = ["--receive-timeout=4", "--stall-timeout=4", "--status-interval=1"];
/** All that an archive may hold, but for the file that fills its disk. */
const KNOWN_FILES =
  /^([0-9A-F]{24}|[0-9A-F]{8}\.history|archive\.json|gaps\.jsonl|lock|lost\+found|inprogress|inprogress\/[0-9A-F]{24}|conflicts|index|index\/[0-9A-F]{24}\.idx)$/;

/** What not every machine has. */
export type FaultNeed = "small disk" | "TLS" | "network namespace" | "wrong clock";

/** Why this machine does not have it; `undefined` when it does. */
export const WHY_NOT: Readonly<Record<FaultNeed, () => string | undefined>> = {
  "small disk": whyNoDisk,
  "TLS": () => spawnSync("openssl", ["version"]).status === 0 ? undefined : "there is no openssl",
  "network namespace": whyNoNamespace,
  "wrong clock": whyNoWrongClock,
};

/** How a round begins. */
export interface RoundOptions {
  readonly synchronous: boolean;
  readonly tls: boolean;
  readonly receiverOptions: readonly string[];
  /** What lies between the receiver and its server. */
  readonly network: "proxy" | "namespace";
  /** Whose clock the scene's `clock` is, if anybody's. */
  readonly clockOf: "receiver" | "server" | undefined;
  /** Whatever happens to it is nobody else's business. */
  readonly archive: "shared" | "own";
  /** Draws all that is not decided by the machine's own timing. */
  readonly random: Random;
}

/** Commits of one primary: they are to be found on its timeline. */
interface Work {
  readonly ledger: Ledger;
  readonly timeline: number;
  readonly startLsn: Lsn;
}

/** What clients saw in a round. */
export interface Seen {
  readonly acknowledged: number;
  readonly lost: number;
  readonly stallMs: number;
}

/** Servers, files and processes of some rounds. */
export class FaultScene {
  readonly #directory = new WorkDirectory();
  readonly proxy: FaultProxy;
  /** `undefined` where none can be mounted. */
  readonly disk: SmallDisk | undefined;
  /** `undefined` where none can be made. */
  readonly namespace: NetworkNamespace | undefined;
  /** `undefined` where none can be turned. */
  readonly clock: WrongClock | undefined;
  primary: Cluster;
  receiver!: Receiver;
  timeline = 1;
  readonly #shared: ArchiveFiles;
  archive: ArchiveFiles;
  #backup: BackupCopy | undefined;
  #round!: RoundOptions;
  #works: Work[] = [];
  /** Of the rounds before, whose commits must come back with a restore. */
  readonly #ledgers: Ledger[] = [];
  #watch: FlushWatch | undefined;
  #flushedLsn: Lsn = lsn(0n);
  #lost = 0;
  #startedMs = 0;
  #rounds = 0;

  private constructor(
    primary: Cluster,
    proxy: FaultProxy,
    namespace: NetworkNamespace | undefined,
    has: ReadonlySet<FaultNeed>,
  ) {
    this.primary = primary;
    this.proxy = proxy;
    this.namespace = namespace;
    this.disk = has.has("small disk") ? new SmallDisk(this.#directory, DISK_BYTES) : undefined;
    this.clock = has.has("wrong clock") ? new WrongClock(this.#directory) : undefined;
    this.archive = this.#shared = this.#newArchive("archive");
  }

  static async open(
    { major, has }: { readonly major: number; readonly has: ReadonlySet<FaultNeed> },
  ): Promise<FaultScene> {
    await using stack = new AsyncDisposableStack();
    const namespace = has.has("network namespace") ? stack.use(new NetworkNamespace()) : undefined;
    const primary = stack.use(
      await startCluster({
        major,
        segmentBytes: SEGMENT_BYTES,
        settings: namespace === undefined
          ? SETTINGS
          : { ...SETTINGS, listen_addresses: `127.0.0.1, ${namespace.serverAddress}` },
        hba: namespace === undefined ? TRUST_THIS_MACHINE : [
          ...TRUST_THIS_MACHINE,
          ...["all", "replication"].map((database) =>
            `host ${database} all ${namespace.serverAddress}/30 trust`
          ),
        ],
      }),
    );
    const proxy = stack.use(await FaultProxy.open(primary.port));
    const scene = new FaultScene(primary, proxy, namespace, has);
    stack.move();
    try {
      if (has.has("TLS")) await giveCertificate(primary);
      await primary.sql(TABLE);
      return scene;
    } catch (error) {
      await scene.destroy();
      throw error;
    }
  }

  #newArchive(name: string): ArchiveFiles {
    if (this.disk === undefined) return new ArchiveFiles(this.#directory.archive(name), SEGMENT_BYTES);
    const path = join(this.disk.path, name);
    fs.mkdirSync(path, { mode: 0o700 });
    return new ArchiveFiles(path, SEGMENT_BYTES);
  }

  get random(): Random {
    return this.#round.random;
  }

  get slot(): string {
    return this.archive === this.#shared ? "walvault" : `walvault_${this.#rounds}`;
  }

  /** Starts the receiver and the clients. */
  async begin(round: RoundOptions): Promise<void> {
    this.#rounds++;
    this.#round = round;
    this.#lost = 0;
    this.archive = round.archive === "shared" ? this.#shared : this.#newArchive(`archive-${this.#rounds}`);
    this.clock?.turn(0);
    await this.#giveServerClock();
    this.launch();
    await this.receiver.next("streaming");
    if (round.archive === "shared") {
      this.#backup ??= await this.primary.backup(this.#directory.file("backup"));
    }
    await caughtUp(this.primary, this.receiver);
    await this.beSynchronous();
    this.#startedMs = performance.now();
    await this.work();
  }

  launch(): void {
    const { tls, receiverOptions, network, clockOf } = this.#round;
    const [place, under] = network === "namespace"
      ? [{ host: this.namespace!.serverAddress }, this.namespace!.enter]
      : [{ port: String(this.proxy.port) }, []];
    this.receiver = startReceiver({
      connection: this.primary.conninfo({ ...place, sslmode: tls ? "require" : "disable" }),
      archive: this.archive.directory,
      options: [`--slot=${this.slot}`, "--create-slot", ...RECEIVER_OPTIONS, ...receiverOptions],
      env: clockOf === "receiver" ? this.clock!.environment : {},
      under,
    });
    if (clockOf === "receiver") this.clock!.wornBy(this.receiver.pid);
  }

  /** It takes another clock at a start only. */
  async #giveServerClock(): Promise<void> {
    const isIts = this.#round.clockOf === "server";
    if (isIts === Object.keys(this.primary.environment).length > 0) return;
    this.primary.environment = isIts ? this.clock!.environment : {};
    await this.primary.restart();
    if (isIts) this.clock!.wornBy(this.primary.pid);
  }

  /** From here on commits wait for the receiver, and for these too, if it is such a round. */
  async beSynchronous(others: readonly string[] = []): Promise<void> {
    if (!this.#round.synchronous) return;
    const names = ["walvault", ...others];
    await this.primary.configure({ synchronous_standby_names: `${names.length} (${names.join(", ")})` });
    await until("the receiver being synchronous", async () =>
      Number(
        await this.primary.value(
          "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'",
        ),
      ) === names.length);
  }

  /** Clients commit on the primary as it is now. */
  async work(): Promise<void> {
    const startLsn = parseLsn(await this.primary.value("SELECT pg_current_wal_flush_lsn()"));
    this.#flushedLsn = lsn(0n);
    this.#watch = new FlushWatch(this.primary, { comesBack: true });
    const ledger = new Ledger(this.primary, {
      clients: 3,
      payloadBytes: 2000,
      pauseMs: 3,
      prefix: `${this.#rounds}-${this.#works.length}-`,
      comesBack: true,
    });
    this.#works.push({ ledger, timeline: this.timeline, startLsn });
  }

  /** The clients end; each finishes its commit, or loses its server. */
  async rest(): Promise<void> {
    await Promise.all([...this.#works.map(({ ledger }) => ledger.stop()), this.#watch?.stop()]);
  }

  /**
   * What is promised at any moment, also in the middle of a fault: the archive holds every commit that a client was told
   * of in a synchronous round, and what the server was told is flushed.
   */
  async prove(): Promise<void> {
    const work = this.#works.at(-1)!;
    const acknowledged = this.#round.synchronous ? [...work.ledger.acknowledged.keys()] : [];
    const flushLsn = this.#watch!.highest;
    if (flushLsn > this.#flushedLsn) this.#flushedLsn = flushLsn;
    await this.#look(() => this.#count(work, acknowledged));
    await this.#look(() => this.#holds(work));
  }

  /**
   * Of a receiver that runs: between the names and what is read under them it may have put another file under a name.
   * What is missing then is no proof, and is looked for again.
   */
  async #look(look: () => void): Promise<void> {
    for (let times = 1;; times++) {
      const before = this.archive.inProgress();
      try {
        return look();
      } catch (error) {
        if (times === MOST_LOOKS || isDeepStrictEqual(before, this.archive.inProgress())) throw error;
        await sleep(20);
      }
    }
  }

  #count({ ledger, timeline, startLsn }: Work, ids: readonly string[]): void {
    if (ids.length === 0) return;
    const { xids, readTo } = archivedCommits(this.archive, { timeline, startLsn });
    this.#lost = ids.filter((id) => !xids.has(ledger.xids.get(id)!)).length;
    assert.equal(
      this.#lost,
      0,
      `${this.#lost} of ${ids.length} acknowledged commits are not in the archive, which reads to ${readTo}`,
    );
  }

  #holds({ timeline, startLsn }: Work): void {
    if (this.#flushedLsn <= startLsn) return;
    assertHolds(this.archive, this.primary, { flushLsn: this.#flushedLsn, timeline, fromLsn: startLsn });
  }

  /** Waits until the receiver has everything again, and clients commit; tells how long it took. */
  async recover(): Promise<number> {
    const healedMs = performance.now();
    await caughtUp(this.primary, this.receiver);
    const recoveryMs = performance.now() - healedMs;
    const { ledger } = this.#works.at(-1)!;
    const before = ledger.acknowledged.size;
    await until("a commit", () => ledger.acknowledged.size > before);
    return recoveryMs;
  }

  /** After `recover()`: the archive is what the server wrote, all of it, and nothing else is left in it. */
  async check(): Promise<void> {
    await this.rest();
    await caughtUp(this.primary, this.receiver);
    await this.prove();
    assert.equal(await this.receiver.stop(), 0);
    for (const work of this.#works) this.#count(work, [...work.ledger.acknowledged.keys()]);
    const { timeline, startLsn } = this.#works.at(-1)!;
    compareWithServer(this.archive, this.primary, { timeline, fromLsn: startLsn });
    assert.deepEqual(this.archive.saved(), [], "saved copies stay behind");
    assert.deepEqual(this.#strangeFiles(), [], "other files stay behind");
    assert.deepEqual(this.archive.conflicts(), []);
  }

  #strangeFiles(): readonly string[] {
    const names = fs.readdirSync(this.archive.directory, { recursive: true, encoding: "utf8" });
    // The end of a receiver cuts an index short; the next one makes it anew, by way of the same name.
    const isDue = (name: string) =>
      name.endsWith(".idx.tmp") && !names.includes(name.slice(0, -".tmp".length));
    const due = names.filter(isDue);
    assert.ok(due.length <= 1, `${due.join(", ")} are left`);
    return names.filter((name) => !KNOWN_FILES.test(name) && !isDue(name));
  }

  /** Ends a round, whatever became of it. */
  async end(): Promise<Seen> {
    const endedMs = performance.now();
    this.proxy.heal();
    this.namespace?.heal();
    this.clock?.turn(0);
    const { archive, synchronous } = this.#round;
    if (synchronous && this.primary.pid !== undefined) {
      await this.primary.configure({ synchronous_standby_names: "" }).catch(() => {});
    }
    await this.rest();
    await this.receiver.kill();
    const moments = this.#works.flatMap(({ ledger }) => [...ledger.acknowledged.values()]);
    const stallMs = longestRestMs(moments.filter((ms) => ms <= endedMs), {
      startedMs: this.#startedMs,
      endedMs,
    });
    if (archive === "shared") this.#ledgers.push(...this.#works.map(({ ledger }) => ledger));
    this.#works = [];
    return { acknowledged: moments.length, lost: this.#lost, stallMs };
  }

  /**
   * A standby of the primary takes its place; the proxy leads to it, and clients go on there. In a synchronous round it
   * lacks nothing that was acknowledged; in others what it never got is lost with the old primary.
   */
  async failOver(pauseMs: number): Promise<void> {
    const old = this.primary;
    const standby = await old.createStandby({ name: "next", settings: SETTINGS });
    try {
      await this.beSynchronous(["next"]);
      await sleep(pauseMs);
      await old.kill();
      await this.prove();
      await this.rest();
      await standby.promote();
    } catch (error) {
      await standby.destroy();
      throw error;
    }
    const { ledger, timeline, startLsn } = this.#works.at(-1)!;
    this.primary = standby;
    this.timeline++;
    this.proxy.leadTo(standby.port);
    const gone = await missingOn(standby, [ledger]);
    if (this.#round.synchronous) {
      assert.deepEqual(gone, [], "acknowledged commits are not on the new primary");
    }
    for (const id of gone) ledger.acknowledged.delete(id);
    await this.beSynchronous();
    await this.work();
    await caughtUp(standby, this.receiver);
    compareWithServer(this.archive, old, { timeline, fromLsn: startLsn });
    await old.destroy();
  }

  /** About so many MiB of WAL; commits of their own are not waited for. */
  async write(mebibytes: number): Promise<void> {
    await this.primary.sql(
      `SET synchronous_commit = local; INSERT INTO work SELECT gen_random_uuid(), repeat(md5(n::text), 320) ` +
        `FROM generate_series(1, ${mebibytes * 90}) n`,
    );
  }

  /** At the end of all rounds: every commit that a client was told of comes back from a base copy and the archive. */
  async close(): Promise<number> {
    if (this.#backup === undefined) return 0;
    for (let timeline = 1; timeline <= this.timeline; timeline++) {
      checkRecords(this.#shared, { timeline });
    }
    const wal = this.#directory.file("wal");
    layOut(this.#shared, wal);
    const restored = await restore({
      backup: this.#backup,
      wal,
      major: this.primary.major,
      settings: { synchronous_standby_names: "" },
    });
    try {
      const missing = await missingOn(restored, this.#ledgers);
      assert.deepEqual(missing, [], "acknowledged commits are missing after a restore");
    } finally {
      await restored.destroy();
      fs.rmSync(wal, { recursive: true });
    }
    return this.#ledgers.reduce((sum, ledger) => sum + ledger.acknowledged.size, 0);
  }

  async destroy(): Promise<void> {
    await this.receiver?.kill();
    await this.proxy.close();
    await this.primary.destroy();
    this.namespace?.[Symbol.dispose]();
    this.clock?.[Symbol.dispose]();
    try {
      this.disk?.openDirectories();
      this.disk?.[Symbol.dispose]();
    } finally {
      this.#directory[Symbol.dispose]();
    }
  }
}

/** TLS without anybody's word for it: it is the bytes that matter here. */
async function giveCertificate(cluster: Cluster): Promise<void> {
  const key = cluster.writeDataFile("server.key", "");
  const certificate = cluster.writeDataFile("server.crt", "");
  const words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
  const run = spawnSync("openssl", [...words, "-keyout", key, "-out", certificate], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  await cluster.configure({ ssl: "on" });
}
