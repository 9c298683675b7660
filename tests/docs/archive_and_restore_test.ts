/**
 * Runs every example of docs/archive_and_restore.md for real, with a server in the place of each that it speaks of.
 *
 * `ini` goes into postgresql.auto.conf as it stands, `sh` to a shell that ends at the first failure, `sql` to the server, and
 * `text` must be what was said. Only this is another than on the page:
 * - `walvault`: the path of the executable; `sudo` and `-o postgres -g postgres` go, as the shell runs as the server's account;
 * - `host=db1`: a port of this machine;
 * - the paths `/srv/archive`, `/srv/restored`, `/var/lib/postgresql/data`, `/tmp`: directories of the test;
 * - where a test says so, one value that is another in each run: a time, an LSN; in `text` names and LSNs.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { formatLsn } from "../../lib/wal/lsn.ts";
import { type BackupCopy, type Cluster, startCluster } from "../postgres/cluster.ts";
import { archived, serverRun } from "../postgres/pusher.ts";
import { ArchiveFiles, caughtUp, Receiver, until, WorkDirectory } from "../postgres/receiver.ts";
import { RecoveringServer } from "../postgres/restorer.ts";
import { contentOf, Ledger, missingOn, TABLE } from "../postgres/workload.ts";
import { type Example, examplesOf } from "./page.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 240_000;
const examples = examplesOf(join(ROOT, "docs", "archive_and_restore.md"));
const LAST_BYTE = "Restore to the last byte";
const tested = new Set<string>();

/** What an example says that another run says otherwise. */
type Values = Readonly<Record<string, string>>;

/** The examples of one heading, taken one after the other. */
class Section {
  #next = 0;

  constructor(readonly heading: string) {}

  take(language: string): string {
    const example: Example | undefined = examples.get(this.heading)?.[this.#next++];
    assert.equal(example?.language, language, `example ${this.#next} below "${this.heading}"`);
    return example!.text;
  }

  assertAllTaken(): void {
    assert.equal(this.#next, examples.get(this.heading)?.length, `examples run below "${this.heading}"`);
  }
}

/** The servers and directories of one test. */
class Scene {
  readonly directory = new WorkDirectory();
  readonly #home = this.directory.file("srv");
  readonly archive = new ArchiveFiles(join(this.#home, "archive", "main"));
  readonly #stack = new AsyncDisposableStack();
  #restored = "";

  private constructor(readonly primary: Cluster) {}

  static async make(): Promise<Scene> {
    const primary = await startCluster({ settings: { wal_keep_size: "1GB", max_wal_size: "2GB" } });
    const scene = new Scene(primary);
    await primary.sql(`CREATE ROLE replicator LOGIN REPLICATION; ${TABLE}`);
    for (const path of [scene.#home, join(scene.#home, "archive"), join(scene.#home, "tmp")]) {
      fs.mkdirSync(path);
      const { account } = serverRun();
      if (account !== undefined) fs.chownSync(path, account.uid, account.gid);
    }
    scene.run(new Section("Who runs as whom").take("sh"));
    assert.equal(fs.statSync(scene.archive.directory).mode & 0o777, 0o750);
    return scene;
  }

  /** The example as it is run. */
  mapped(text: string, { cluster = this.primary, values = {} }: {
    readonly cluster?: Cluster;
    readonly values?: Values;
  } = {}): string {
    for (const [shown, real] of Object.entries(values)) {
      assert.ok(text.includes(shown), `no "${shown}" in the example`);
      text = text.replaceAll(shown, real);
    }
    return text
      .replaceAll(" /tmp/", ` ${join(this.#home, "tmp/")}`) // first: the others may come to lie there
      .replaceAll(/\bsudo (-u postgres )?/g, "")
      .replaceAll("-o postgres -g postgres ", "")
      .replaceAll(/\bwalvault (?=init|receive|push|fetch)/g, `${serverRun().executable} `)
      .replaceAll("host=db1", `host=${cluster.host} port=${cluster.port}`)
      .replaceAll("/srv/archive/", join(this.#home, "archive/"))
      .replaceAll(/\/srv\/restored\b/g, this.#restored)
      .replaceAll("/var/lib/postgresql/data", this.primary.dataDirectory);
  }

  /** Runs an `sh` example to its end. */
  run(text: string): string {
    const { status, stdout, stderr } = spawnSync("/bin/sh", ["-euc", `{ ${this.mapped(text)} } 2>&1`], {
      ...serverRun().account,
      cwd: "/",
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin" },
    });
    assert.equal(status, 0, `${text}${stdout}${stderr}`);
    return stdout;
  }

  /** Starts an `sh` example that ends only when it is told to, and waits until it streams. */
  async receive(text: string, cluster = this.primary): Promise<Receiver> {
    const runBy = { executable: "/bin/sh", account: serverRun().account };
    const receiver = this.#stack.use(
      new Receiver(["-euc", `exec ${this.mapped(text, { cluster })}`], {}, runBy),
    );
    await caughtUp(cluster, receiver);
    return receiver;
  }

  /** `ini` into the primary, and a restart. */
  async configure(text: string): Promise<void> {
    this.primary.writeDataFile("postgresql.auto.conf", this.mapped(text));
    await this.primary.restart();
  }

  async backup(): Promise<BackupCopy> {
    return await this.primary.backup(this.directory.file("backup"));
  }

  /** A server that recovers as the examples say. */
  async restore(
    backup: BackupCopy,
    { ini, sh, values = {} }: { readonly ini: string; readonly sh: string; readonly values?: Values },
  ): Promise<RecoveringServer> {
    const server = await RecoveringServer.start({
      backup,
      restoreCommand: "",
      settings: { archive_mode: "off", synchronous_standby_names: "" },
      prepare: (dataDirectory) => {
        this.#restored = dataDirectory;
        fs.appendFileSync(join(dataDirectory, "postgresql.auto.conf"), this.mapped(ini, { values }));
        fs.rmSync(join(dataDirectory, "recovery.signal"));
        this.run(sh);
      },
    });
    return this.#stack.use(server);
  }

  /** Recovers to the last byte, as the section of that name says. */
  async restoreAll(backup: BackupCopy): Promise<RecoveringServer> {
    const section = new Section(LAST_BYTE);
    const server = await this.restore(backup, { ini: section.take("ini"), sh: section.take("sh") });
    await server.recovered();
    return server;
  }

  async write(cluster: Cluster, id: string, { payloadBytes = 100 } = {}): Promise<void> {
    await cluster.sql(`INSERT INTO work VALUES ('${id}', repeat('x', ${payloadBytes}))`);
  }

  /** Goes on until the server writes to this segment. */
  async writeTo(name: string): Promise<void> {
    while (await this.primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())") < name) {
      await this.write(this.primary, `segment-${performance.now()}`);
      await this.primary.sql("SELECT pg_switch_wal()");
    }
    await this.write(this.primary, `last-${performance.now()}`);
  }

  async ids(cluster: Cluster): Promise<readonly string[]> {
    return (await cluster.sql<{ id: string }>("SELECT id FROM work ORDER BY id")).map((row) => row.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
    await this.primary.destroy();
    this.directory[Symbol.dispose]();
  }
}

/** A test of the examples below one heading. */
function testSection(heading: string, use: (scene: Scene, section: Section) => Promise<void>): void {
  tested.add(heading);
  test(`docs: ${heading}`, { timeout }, async () => {
    await using scene = await Scene.make();
    const section = new Section(heading);
    await use(scene, section);
    section.assertAllTaken();
  });
}

/** The text of an example, whatever the names and LSNs in it. */
function shape(text: string): RegExp {
  const escaped = text.trim().replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(
    escaped.replaceAll(/[0-9A-F]{24}/g, "[0-9A-F]{24}").replaceAll(/0\/[0-9A-F]+/g, "0/[0-9A-F]+"),
  );
}

const STREAM = "The stream alone";

/** The receiver of the first set-up, for tests of what comes after. */
async function streaming(scene: Scene, cluster = scene.primary): Promise<Receiver> {
  return await scene.receive(new Section(STREAM).take("sh"), cluster);
}

testSection(STREAM, async (scene, section) => {
  const { primary } = scene;
  const receiver = await scene.receive(section.take("sh"));
  for (const statement of section.take("sql").trim().split("\n")) await primary.sql(statement);
  await until(
    "the receiver being the synchronous standby",
    async () =>
      await primary.value("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") === "1",
  );
  const backup = await scene.backup();
  await using ledger = new Ledger(primary, { clients: 2, payloadBytes: 2000 });
  await sleep(1500);
  await primary.kill();
  await ledger.stop();
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  const server = await scene.restoreAll(backup);
  assert.ok(ledger.acknowledged.size > 10);
  assert.deepEqual(await missingOn(server.cluster, [ledger]), []);
});

testSection("Push alone", async (scene, section) => {
  const { primary } = scene;
  scene.run(section.take("sh"));
  await scene.configure(section.take("ini"));
  assert.equal(await primary.value("SHOW archive_timeout"), "1min");
  const backup = await scene.backup();
  await scene.write(primary, "pushed");
  await primary.sql("SELECT pg_switch_wal()");
  await archived(primary);
  assert.equal(await primary.value("SELECT failed_count FROM pg_stat_archiver"), "0", primary.log());
  await scene.write(primary, "lost");
  await primary.kill();
  const server = await scene.restoreAll(backup);
  assert.deepEqual(await scene.ids(server.cluster), ["pushed"]);
});

testSection("Stream and push into one archive", async (scene, section) => {
  const { primary, archive } = scene;
  const stream = section.take("sh");
  const first = await scene.receive(stream);
  await scene.configure(section.take("ini"));
  await caughtUp(primary, first);
  const backup = await scene.backup();
  await scene.writeTo("000000010000000000000004");
  await first.kill();
  await scene.writeTo("000000010000000000000006");
  await archived(primary);
  assert.ok(archive.complete().some((file) => file.name === "000000010000000000000005"), "push went on");
  // Its slot is lost, and the primary has none of what was pushed any more.
  await primary.sql("SELECT pg_drop_replication_slot('walvault')");
  fs.rmSync(join(primary.dataDirectory, "pg_wal", "000000010000000000000005"));
  const again = await scene.receive(stream);
  await scene.write(primary, "streamed");
  await caughtUp(primary, again);
  const content = await contentOf(primary);
  await primary.kill();
  assert.equal(await again.stop(), 0, again.stderr);
  assert.deepEqual(archive.conflicts(), []);
  assert.equal(primary.log().includes("archive command failed"), false, primary.log());
  const server = await scene.restoreAll(backup);
  assert.equal(await contentOf(server.cluster), content);
});

testSection(LAST_BYTE, async (scene, section) => {
  const { primary } = scene;
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  await scene.write(primary, "streamed");
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  await scene.write(primary, "only in pg_wal");
  await primary.kill();
  const [ini, sh] = [section.take("ini"), section.take("sh")];
  const server = await scene.restore(backup, { ini, sh });
  await server.recovered();
  assert.deepEqual(await scene.ids(server.cluster), ["streamed"]);
  assert.match(server.log, shape(section.take("text")));
});

testSection("Restore to a point in time", async (scene, section) => {
  const { primary } = scene;
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  await scene.write(primary, "before");
  await sleep(50);
  const time = await primary.value("SELECT clock_timestamp()::text");
  await sleep(50);
  await scene.write(primary, "after");
  await caughtUp(primary, receiver);
  await primary.kill();
  const [ini, sh] = [section.take("ini"), section.take("sh")];
  const server = await scene.restore(backup, { ini, sh, values: { "2026-11-22 11:30:00+00": time } });
  await server.recovered();
  assert.deepEqual(await scene.ids(server.cluster), ["before"]);
  // A target that the archive does not reach.
  const late = await scene.restore(backup, { ini, sh, values: { "2026-11-22 11:30:00+00": "2126-01-01" } });
  await late.ended();
  assert.match(late.log, /recovery ended before configured recovery target was reached/);
});

testSection("Restore a timeline of your choice", async (scene, section) => {
  const { primary } = scene;
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  await using standby = await primary.createStandby({ name: "standby" });
  await scene.write(primary, "before");
  await standby.promote();
  await scene.write(primary, "old primary");
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  await primary.kill();
  const next = await streaming(scene, standby);
  await scene.write(standby, "new primary");
  await caughtUp(standby, next);
  assert.equal(await next.stop(), 0, next.stderr);
  const [ini, sh] = [section.take("ini"), section.take("sh")];
  const old = await scene.restore(backup, { ini, sh });
  await old.recovered();
  assert.deepEqual(await scene.ids(old.cluster), ["before", "old primary"]);
  const newest = await scene.restoreAll(backup);
  assert.deepEqual(await scene.ids(newest.cluster), ["before", "new primary"]);
});

testSection("A warm standby that waits", async (scene, section) => {
  const { primary } = scene;
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  // Its start is waited for, and before the segment with the backup's end is complete it is not consistent.
  await scene.write(primary, "in a segment");
  await primary.sql("SELECT pg_switch_wal()");
  await caughtUp(primary, receiver);
  const [ini, sh] = [section.take("ini"), section.take("sh")];
  const server = await scene.restore(backup, { ini, sh });
  await scene.write(primary, "in the tail");
  await caughtUp(primary, receiver);
  await until("the standby's replaying it", async () => (await scene.ids(server.cluster)).length === 1);
  await primary.kill();
  await server.cluster.restart(); // which ends the fetch that waits
  await sleep(1500);
  assert.equal(await server.cluster.value("SELECT pg_is_in_recovery()::text"), "true");
  scene.run(section.take("sh"));
  await server.recovered();
  assert.deepEqual(await scene.ids(server.cluster), ["in a segment", "in the tail"]);
});

testSection("A standby that asks again", async (scene, section) => {
  const { primary } = scene;
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  const [ini, sh] = [section.take("ini"), section.take("sh")];
  const server = await scene.restore(backup, { ini, sh });
  assert.equal(await server.cluster.value("SHOW wal_retrieve_retry_interval"), "1s");
  for (const id of ["first", "second"]) {
    await scene.write(primary, id);
    await caughtUp(primary, receiver);
    await until("the tail's coming", async () => (await scene.ids(server.cluster)).includes(id));
  }
  await primary.kill();
  await server.cluster.sql(section.take("sql"));
  await server.recovered();
  assert.deepEqual(await scene.ids(server.cluster), ["first", "second"]);
});

testSection("A compressed archive", async (scene, section) => {
  const { primary, archive } = scene;
  const ini = section.take("ini");
  const receiver = await scene.receive(section.take("sh"));
  await scene.configure(ini);
  await caughtUp(primary, receiver);
  const backup = await scene.backup();
  await scene.writeTo("000000010000000000000006");
  await caughtUp(primary, receiver);
  await archived(primary);
  await until("everything being compressed", () => archive.complete().length === 0);
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  assert.ok(fs.readdirSync(archive.directory).filter((name) => name.endsWith(".zst")).length >= 4);
  const content = await contentOf(primary);
  await primary.kill();
  const server = await scene.restoreAll(backup);
  assert.equal(await contentOf(server.cluster), content);
});

testSection("When there is a hole", async (scene, section) => {
  const { primary, archive } = scene;
  const hole = join(archive.directory, "000000010000000000000005");
  const receiver = await streaming(scene);
  const backup = await scene.backup();
  await scene.writeTo("000000010000000000000005");
  const before = await scene.ids(primary);
  await scene.writeTo("000000010000000000000007");
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  fs.rmSync(hole);

  const lastByte = new Section(LAST_BYTE);
  const recovery = { ini: lastByte.take("ini"), sh: lastByte.take("sh") };
  const server = await scene.restore(backup, recovery);
  await server.ended();
  server.assertNotPromoted();
  const said = scene.run(section.take("sh"));
  assert.equal(said, scene.mapped(section.take("text")));
  assert.ok(server.log.includes(said.split("\n")[0]!), server.log);
  scene.run(section.take("sh"));
  await server.cluster.start();
  await server.recovered();
  assert.equal(await contentOf(server.cluster), await contentOf(primary));

  fs.rmSync(hole);
  const front = archive.complete().find((file) => file.name === "000000010000000000000004")!;
  const last = formatLsn(archive.scan(front).lastRecordLsn!);
  const ended = await scene.restore(backup, {
    ini: section.take("ini"),
    sh: recovery.sh,
    values: { "0/4FFFFA8": last },
  });
  await ended.recovered();
  const there = await scene.ids(ended.cluster);
  assert.ok(there.length > 0);
  assert.deepEqual(there, before.filter((id) => !id.startsWith("last")));
});

test("docs: every example of archive_command and restore_command is run", () => {
  // Its one example is run by each of the tests.
  assert.deepEqual([...examples.keys()].sort(), ["Who runs as whom", ...tested].sort());
});
