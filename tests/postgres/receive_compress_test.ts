import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { decompress, FORMAT_OF_FORM } from "../../lib/archive/compression.ts";
import { memoryFile } from "../archive/memory_file.ts";
import { Random } from "../simulation/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { caughtUp, MIB, type ReceiveOptions, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;
const OPTIONS = ["--slot=walvault", "--create-slot"];
const SETTINGS = { wal_keep_size: "4GB", max_wal_size: "8GB" };

function receiveCompressed(cluster: Cluster, archive: string, compress: string): ReceiveOptions {
  return { connection: cluster.conninfo(), archive, options: [...OPTIONS, `--compress=${compress}`] };
}

/** Names of published segments, without what tells their form, sorted; those that are there twice come once. */
function segments(archive: string): readonly string[] {
  const names = fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}(\.(zst|gz|lz4))?$/.test(name));
  return [...new Set(names.map((name) => name.slice(0, 24)))].sort();
}

function plain(archive: string): readonly string[] {
  return fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}$/.test(name));
}

/** Each form of each segment holds what the server has, and there is no hole. Nothing may run meanwhile. */
async function assertServersOwn(archive: string, cluster: Cluster): Promise<number> {
  const names = segments(archive);
  assert.ok(names.length > 0, "nothing is archived");
  const [first = "", last = ""] = [names[0], names.at(-1)];
  const server = fs.readdirSync(join(cluster.dataDirectory, "pg_wal")).filter((name) =>
    /^[0-9A-F]{24}$/.test(name)
  );
  assert.deepEqual(names, server.filter((name) => name >= first && name <= last).sort());
  for (const name of names) {
    const want = fs.readFileSync(join(cluster.dataDirectory, "pg_wal", name));
    for (const form of ["", ".zst", ".gz", ".lz4"] as const) {
      const path = join(archive, name + form);
      if (!fs.existsSync(path)) continue;
      const got = form === "" ? fs.readFileSync(path) : await decoded(path, form);
      assert.ok(Buffer.compare(got, want) === 0, `${name}${form} is not the server's`);
    }
  }
  return names.length;
}

async function decoded(path: string, form: ".zst" | ".gz" | ".lz4"): Promise<Uint8Array> {
  const content = new Uint8Array(MIB);
  const source = { format: FORMAT_OF_FORM[form], label: path, wantBytes: MIB };
  await decompress(memoryFile(fs.readFileSync(path)), source, (bytes, position) => {
    content.set(bytes, position);
    return "more";
  });
  return content;
}

test(
  "receive --compress: the archive is what the server wrote, compressed; runs of other kinds go on from it",
  {
    timeout,
  },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes: MIB, settings: SETTINGS });
    await cluster.sql(TABLE);
    const archive = directory.archive();
    let count = 0;
    for (
      const [compress, form] of [["zstd", ".zst"], ["gzip:1", ".gz"], ["lz4", ".lz4"], ["zstd:3", ".zst"]]
    ) {
      await using receiver = startReceiver(receiveCompressed(cluster, archive, compress ?? ""));
      await receiver.next("streaming");
      await cluster.sql(`INSERT INTO work SELECT '${compress}' || n, repeat(md5(n::text), 60)
      FROM generate_series(1, 4000) n; SELECT pg_switch_wal()`);
      await caughtUp(cluster, receiver);
      await until(
        "everything being compressed",
        () => segments(archive).length > count && plain(archive).length === 0,
      );
      assert.equal(await receiver.stop(), 0);
      assert.deepEqual(receiver.linesOf("compression waits"), []);
      assert.deepEqual(receiver.linesOf("segment not compressed"), []);
      const added = fs.readdirSync(archive).filter((name) => name.endsWith(form ?? "none"));
      assert.ok(added.length > 5, `${added.length} segments with ${compress}`);
      count = await assertServersOwn(archive, cluster);
      const left = fs.readdirSync(join(archive, "inprogress")).filter((name) => name.endsWith(".tmp"));
      assert.deepEqual(left, []);
    }
    // Without the option nothing is compressed, and nothing is made plain again.
    await using receiver = startReceiver({ connection: cluster.conninfo(), archive, options: OPTIONS });
    await receiver.next("streaming");
    await cluster.sql("INSERT INTO work VALUES ('plain', 'x'); SELECT pg_switch_wal()");
    await caughtUp(cluster, receiver);
    assert.equal(await receiver.stop(), 0);
    assert.equal(plain(archive).length, 1);
    assert.ok(await assertServersOwn(archive, cluster) > count);
  },
);

test(
  "receive --compress: 12 kills while it compresses, and every segment is there whole",
  { timeout },
  async () => {
    const random = new Random(7);
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes: MIB, settings: SETTINGS });
    await cluster.sql(TABLE);
    const archive = directory.archive();
    await using load = new Ledger(cluster, { clients: 2, payloadBytes: 16_000, pauseMs: 2 });
    let known: readonly string[] = [];
    let both = 0;
    for (let round = 1; round <= 12; round++) {
      const compress = random.pick(["zstd", "zstd:9", "lz4", "gzip:1"]);
      await using receiver = startReceiver(receiveCompressed(cluster, archive, compress));
      if (round === 1 || random.chance(0.7)) await receiver.next("segment compressed");
      await sleep(random.spread(5, 800));
      await receiver.kill();
      await assertServersOwn(archive, cluster);
      const names = segments(archive);
      for (const name of known) assert.ok(names.includes(name), `${name} is gone in round ${round}`);
      known = names;
      both += plain(archive).length;
    }
    assert.ok(both > 0, "no kill came while there was something to compress");
    await load.stop();
    assert.deepEqual(load.problems, []);
    {
      // Told to stop while there is a backlog, it does so at once, and leaves that for the next one.
      await cluster.sql(
        "INSERT INTO work SELECT 'e' || n, repeat(md5(n::text), 100) FROM generate_series(1, 6000) n",
      );
      await using receiver = startReceiver(receiveCompressed(cluster, archive, "zstd:19"));
      await receiver.next("segment compressed");
      const asked = performance.now();
      assert.equal(await receiver.stop(), 0);
      const tookMs = performance.now() - asked;
      assert.ok(tookMs < 8000, `it took ${tookMs} ms to stop`);
      assert.ok(plain(archive).length > 0, "nothing was left to compress");
      // A piece that takes longer than it may leaves its temporary file, and the next start removes that.
      await assertServersOwn(archive, cluster);
    }
    await using receiver = startReceiver(receiveCompressed(cluster, archive, "zstd"));
    await receiver.next("streaming");
    await caughtUp(cluster, receiver);
    await until("everything being compressed", () => plain(archive).length === 0);
    assert.equal(await receiver.stop(), 0);
    await assertServersOwn(archive, cluster);
    assert.deepEqual(fs.readdirSync(join(archive, "inprogress")).filter((name) => name.endsWith(".tmp")), []);
  },
);
