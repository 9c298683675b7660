import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startCluster } from "./cluster.ts";
import { findServerPrograms, serverAccount, TEST_MAJOR } from "./servers.ts";

const timeout = 300_000;

test(`startCluster() runs PostgreSQL ${TEST_MAJOR} and answers on both sockets`, { timeout }, async () => {
  await using cluster = await startCluster({
    segmentBytes: 1024 * 1024,
    settings: { cluster_name: "it's" },
  });
  assert.equal(
    await cluster.value("SELECT current_setting('server_version_num')::int / 10000"),
    String(TEST_MAJOR),
  );
  assert.equal(await cluster.value("SHOW wal_segment_size"), "1MB");
  assert.equal(await cluster.value("SHOW cluster_name"), "it's");
  assert.deepEqual(await cluster.sql("SELECT 1 AS a; SELECT 2 AS b"), [{ b: 2 }]);
  assert.deepEqual(await cluster.sql("SELECT 1 WHERE false"), []);
  assert.match(
    cluster.conninfo({ password: "a b'c\\d" }),
    /^host=127\.0\.0\.1 port=\d+ user=postgres password='a b\\'c\\\\d'$/,
  );
  const overTcp = cluster.connect({ path: undefined, host: cluster.host, port: cluster.port } as never);
  assert.deepEqual([...await overTcp`SELECT inet_server_addr()::text AS address`], [{
    address: "127.0.0.1/32",
  }]);
  await overTcp.end();
  assert.ok(cluster.walFiles().length > 0);
});

test(
  "Cluster: a kill loses no commit, leaves no process, and the server starts again",
  { timeout },
  async () => {
    await using cluster = await startCluster();
    await cluster.sql("CREATE TABLE t (a int)");
    await cluster.sql("INSERT INTO t VALUES (1)");
    const killed = cluster.pid!;
    await cluster.kill();
    assert.equal(cluster.pid, undefined);
    assert.equal(fs.existsSync(`/proc/${killed}/exe`), false);
    await assert.rejects(cluster.sql("SELECT 1"));
    await cluster.start();
    assert.equal(await cluster.value("SELECT count(*) FROM t"), "1");
    for (const mode of ["smart", "fast", "immediate"] as const) {
      await cluster.restart(mode);
      assert.equal(await cluster.value("SELECT count(*) FROM t"), "1");
    }
  },
);

test("Cluster: configure() and setHba() change a running server", { timeout }, async () => {
  await using cluster = await startCluster();
  await cluster.configure({ wal_sender_timeout: "5s" });
  assert.equal(await cluster.value("SHOW wal_sender_timeout"), "5s");
  cluster.setHba(["host all all 127.0.0.1/32 reject"]);
  await cluster.reload();
  const overTcp = cluster.connect({ path: undefined, host: cluster.host, port: cluster.port } as never);
  await assert.rejects(overTcp`SELECT 1`, { code: "28000" });
  await overTcp.end();
});

test(
  "Cluster: a standby streams, is promoted, and a copy is recovered from an archive",
  { timeout },
  async () => {
    const settings = { wal_keep_size: "100MB" };
    await using cluster = await startCluster({ segmentBytes: 1024 * 1024, settings });
    await cluster.sql("CREATE TABLE t (a int)");
    const copy = join(cluster.directory, "copy");
    const { startLsn, endLsn } = await cluster.backup(copy);
    assert.match(`${startLsn} ${endLsn}`, /^0\/[0-9A-F]+ 0\/[0-9A-F]+$/);
    await cluster.sql("INSERT INTO t VALUES (1)");

    await using standby = await cluster.createStandby();
    assert.equal(await standby.value("SELECT pg_is_in_recovery()"), "true");
    await standby.promote();
    assert.equal(await standby.value("SELECT pg_is_in_recovery()"), "false");
    assert.equal(await standby.value("SELECT count(*) FROM t"), "1");
    assert.ok(standby.walFiles().some((name) => name.startsWith("00000002")));

    await cluster.stop("fast");
    const archive = join(cluster.dataDirectory, "pg_wal");
    await using restored = await startCluster({
      from: copy,
      signal: "recovery.signal",
      settings: { restore_command: `cp "${archive}/%f" "%p"` },
    });
    while (await restored.value("SELECT pg_is_in_recovery()") === "true") await sleep(50);
    assert.equal(await restored.value("SELECT count(*) FROM t"), "1");
  },
);

test("startCluster() says why a server does not start, and leaves nothing behind", { timeout }, async () => {
  const parentDirectory = fs.mkdtempSync(join(tmpdir(), "wv-parent-"));
  const account = serverAccount();
  if (account !== undefined) fs.chownSync(parentDirectory, account.uid, account.gid);
  try {
    const settings = { no_such_setting: "1" };
    await assert.rejects(
      startCluster({ parentDirectory, settings }),
      /unrecognized configuration parameter "no_such_setting"/,
    );
    assert.deepEqual(fs.readdirSync(parentDirectory), []);
  } finally {
    fs.rmSync(parentDirectory, { recursive: true });
  }
});

test("startCluster() says so when there is no such version", async () => {
  await assert.rejects(startCluster({ major: 7 }), /Cannot find PostgreSQL 7: .*WALVAULT_POSTGRES_7/);
});

test(
  "Cluster: when the test process is killed, its servers end and their files go",
  { timeout },
  async () => {
    findServerPrograms(TEST_MAJOR); // not the child's time
    const module = join(dirname(fileURLToPath(import.meta.url)), "cluster.ts");
    const script = `import { startCluster } from ${JSON.stringify(module)};
    const cluster = await startCluster();
    console.log(JSON.stringify({ pid: cluster.pid, directory: cluster.directory }));
    await new Promise((resolve) => setTimeout(resolve, 60_000));`;
    const folder = fs.mkdtempSync(join(dirname(module), ".killed-")); // beside the sources: there "postgres" resolves
    try {
      const path = join(folder, "script.ts");
      fs.writeFileSync(path, script);
      const options = process.versions["deno"] === undefined ? [path] : ["run", "-A", "--no-check", path];
      const child = spawn(process.execPath, options, { stdio: ["ignore", "pipe", "inherit"] });
      const [line] = await once(child.stdout, "data");
      const { pid, directory } = JSON.parse(String(line));
      assert.ok(fs.existsSync(`/proc/${pid}`));
      child.kill("SIGKILL");
      const deadline = Date.now() + 30_000;
      while (
        (fs.existsSync(`/proc/${pid}`) || fs.existsSync(directory)) && Date.now() < deadline
      ) await sleep(50);
      assert.equal(fs.existsSync(`/proc/${pid}`), false);
      assert.equal(fs.existsSync(directory), false);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  },
);
