/** Gaps that a real server made, healed by whoever still has the WAL, or accepted. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { walvault } from "./pusher.ts";
import { ArchiveFiles, caughtUp, MIB, segmentOf, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { MAJORS } from "./servers.ts";
import { TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const GREEDY = { min_wal_size: "2MB", max_wal_size: "2MB", wal_keep_size: "0", autovacuum: "off" };

/** An archive with one gap, and all segments of it as the server had them. */
interface Scene {
  readonly cluster: Cluster;
  /** Streams from the cluster, and removes nothing. */
  readonly standby: Cluster;
  readonly archive: ArchiveFiles;
  readonly gap: { readonly startLsn: Lsn; readonly endLsn: Lsn; readonly names: readonly string[] };
  /** A directory with the gap's segments. */
  readonly copies: string;
}

interface GapAnswer {
  readonly open: number;
  readonly gaps: readonly {
    readonly state: string;
    readonly startLsn: string;
    readonly endLsn: string;
    readonly segments: number;
    readonly recorded?: boolean;
    readonly answers?: readonly {
      readonly source: string;
      readonly segments: number;
      readonly answer?: string;
    }[];
  }[];
}

function gap(words: readonly string[]): { readonly code: number | null; readonly answer: GapAnswer } {
  const { code, stdout, stderr } = walvault(["gap", ...words, "--json"]);
  assert.match(stdout, /^\{.*\}\n$/, `${words.join(" ")}: exit ${code}: ${stderr}`);
  return { code, answer: JSON.parse(stdout) };
}

async function churn(cluster: Cluster): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'more')");
  }
}

/** Runs with a server that removed WAL which its receiver had not got, and a standby that has it. */
async function withGap(
  major: number | undefined,
  use: (scene: Scene, directory: WorkDirectory) => Promise<void>,
): Promise<void> {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({
    ...(major === undefined ? {} : { major }),
    segmentBytes,
    settings: { ...GREEDY, wal_keep_size: "4GB" },
  });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await cluster.sql(TABLE);
  await using standby = await cluster.createStandby({ settings: { wal_keep_size: "4GB" } });
  const copies = directory.file("copies");
  fs.mkdirSync(copies);
  const stopped = await receiveUntilNow(cluster, archive);
  const missingLsn = segmentFloor(stopped, archive.segmentSize);
  await cluster.configure({ wal_keep_size: "0" });
  await until("the removal of the next segment", async () => {
    await churn(cluster);
    const end = await cluster.value("SELECT pg_current_wal_flush_lsn()");
    await until(
      "the standby having all",
      async () => await standby.value(`SELECT (pg_last_wal_receive_lsn() >= '${end}')::text`) === "true",
    );
    await cluster.sql("CHECKPOINT");
    return !cluster.walFiles().includes(segmentOf(missingLsn, archive));
  });
  await cluster.configure({ wal_keep_size: "4GB" });
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  const line = await receiver.next("gap recorded");
  await receiver.next("streaming");
  await churn(cluster);
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
  const [startLsn, endLsn] = [parseLsn(String(line["startLsn"])), parseLsn(String(line["endLsn"]))];
  assert.equal(startLsn, missingLsn);
  const names: string[] = [];
  for (let at: bigint = startLsn; at < endLsn; at += BigInt(segmentBytes)) {
    names.push(segmentOf(at as Lsn, archive));
  }
  // The standby has them as the primary wrote them.
  for (const name of names) {
    fs.copyFileSync(join(standby.dataDirectory, "pg_wal", name), join(copies, name));
  }
  await use({ cluster, standby, archive, copies, gap: { startLsn, endLsn, names } }, directory);
}

async function receiveUntilNow(cluster: Cluster, archive: ArchiveFiles): Promise<Lsn> {
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  await receiver.next("streaming");
  await churn(cluster);
  const end = parseLsn(await caughtUp(cluster, receiver));
  assert.equal(await receiver.stop(), 0);
  return end;
}

/** The same archive once more. */
function copyOf({ archive }: Scene, path: string): string {
  fs.cpSync(archive.directory, path, { recursive: true, preserveTimestamps: true });
  return `--archive=${path}`;
}

function assertHealed({ copies, gap: { names } }: Scene, path: string): void {
  for (const name of names) {
    assert.ok(
      fs.readFileSync(join(path, name)).equals(fs.readFileSync(join(copies, name))),
      `${name} as the server had it`,
    );
  }
  const left = fs.readdirSync(join(path, "inprogress")).filter((name) => name.includes(".push-"));
  assert.deepEqual(left, [], "no temporary file");
  const { code, answer } = gap(["list", `--archive=${path}`]);
  assert.deepEqual([code, answer.open, answer.gaps.map(({ state }) => state)], [0, 0, ["healed"]]);
}

for (const major of MAJORS) {
  test(
    `a gap that PostgreSQL ${major} made is healed by whoever still has the WAL`,
    { timeout },
    () =>
      withGap(major, async (scene, directory) => {
        const { cluster, standby, copies, gap: { startLsn, endLsn, names } } = scene;
        const listed = gap(["list", `--archive=${scene.archive.directory}`]);
        assert.equal(listed.code, 1);
        const [open] = listed.answer.gaps;
        assert.deepEqual(
          [open?.state, open?.recorded, open?.startLsn, open?.endLsn, open?.segments],
          ["open", true, formatLsn(startLsn), formatLsn(endLsn), names.length],
        );

        // Who has nothing of it, and who is of another cluster.
        let path = directory.file("other");
        let d = copyOf(scene, path);
        await using other = await startCluster({ segmentBytes });
        const peer = join(other.dataDirectory, "pg_wal");
        for (const name of names) fs.copyFileSync(join(copies, name), join(peer, name));
        const primary = cluster.conninfo();
        const nobody = gap(["heal", d, `--connection=${primary}`, `--peer=${peer}`, "--peer=/nowhere"]);
        assert.deepEqual([nobody.code, nobody.answer.open], [1, 1]);
        const said = nobody.answer.gaps[0]?.answers?.map(({ answer }) => answer ?? "") ?? [];
        assert.match(said[1] ?? "", /it belongs to the cluster with system identifier/);
        assert.match(said[2] ?? "", /there is no such directory/);
        assert.match(said[3] ?? "", /has already been removed/);
        const wrong = gap(["heal", d, `--connection=${other.conninfo()}`]);
        assert.match(wrong.answer.gaps[0]?.answers?.[1]?.answer ?? "", /it has system identifier/);

        // A standby; the first host has none of it.
        const hosts = `${primary.replace(/host=\S+/, "host=127.0.0.1,127.0.0.1")}`.replace(
          /port=(\d+)/,
          `port=$1,${/port=(\d+)/.exec(standby.conninfo())?.[1]}`,
        );
        const byStandby = gap(["heal", d, `--connection=${hosts}`]);
        assert.equal(byStandby.code, 0, "x");
        assert.equal(byStandby.answer.gaps[0]?.answers?.at(-1)?.segments, names.length);
        assertHealed(scene, path);
        assert.equal(gap(["heal", d]).code, 0, "nothing to do");

        // What is pushed.
        path = directory.file("pushed");
        d = copyOf(scene, path);
        for (const name of names) {
          const pushed = walvault(["push", d, join(copies, name)]);
          assert.equal(pushed.code, 0, pushed.stderr);
        }
        assertHealed(scene, path);

        // Another directory, with files in all forms.
        path = directory.file("peer");
        d = copyOf(scene, path);
        const mixed = directory.file("mixed");
        fs.mkdirSync(mixed);
        for (const [index, name] of names.entries()) {
          const bytes = fs.readFileSync(join(copies, name));
          if (index % 3 === 0) fs.writeFileSync(join(mixed, name), bytes);
          else if (index % 3 === 1) fs.writeFileSync(join(mixed, `${name}.gz`), gzipSync(bytes));
          else fs.writeFileSync(join(mixed, `${name}.zst`), zstdCompressSync(bytes));
        }
        assert.equal(gap(["heal", d, `--peer=${mixed}`]).code, 0);
        assertHealed(scene, path);

        // Another archive.
        const second = path;
        path = directory.file("by-archive");
        assert.equal(gap(["heal", copyOf(scene, path), `--peer=${second}`]).code, 0);
        assertHealed(scene, path);

        // What an earlier run had kept.
        path = directory.file("kept");
        d = copyOf(scene, path);
        for (const name of names) {
          fs.copyFileSync(join(copies, name), join(path, "inprogress", `${name}.saved-1`));
        }
        assert.equal(gap(["heal", d]).code, 0);
        assertHealed(scene, path);

        // Text answers, too.
        path = directory.file("text");
        d = copyOf(scene, path);
        const text = walvault(["gap", "list", d]);
        assert.match(
          text.stdout,
          /^State +Timeline .*\nopen +1 +.*\n +recorded \d{4}-.*has already been removed\n1 gap is open/,
        );
        const healed = walvault(["gap", "heal", d, `--peer=${copies}`]);
        assert.match(
          healed.stdout,
          new RegExp(`: healed\\n.*\\n  .*copies: brought ${names.length}\\nno gap is open\\n$`),
        );
        assert.equal(healed.code, 0);
      }),
  );
}

test(
  "receive heals a gap by itself, beside its stream",
  { timeout },
  () =>
    withGap(undefined, async (scene, directory) => {
      const { cluster, copies } = scene;
      const path = directory.file("healing");
      copyOf(scene, path);
      const peer = directory.file("late");
      fs.mkdirSync(peer);
      await using receiver = startReceiver({
        connection: cluster.conninfo(),
        archive: path,
        options: [`--peer=${copies}`],
      });
      const brought = await receiver.next("missing wal brought in");
      assert.equal(brought["source"], copies);
      await receiver.next("gap healed");
      await churn(cluster);
      await caughtUp(cluster, receiver);
      assert.equal(await receiver.stop(), 0);
      assertHealed(scene, path);
    }),
);

test(
  "a gap that is accepted is none that anybody waits for, and stays a hole",
  { timeout },
  () =>
    withGap(undefined, (scene, directory) => {
      const { gap: { startLsn, endLsn, names } } = scene;
      const path = directory.file("accepted");
      const d = copyOf(scene, path);
      const accept = (words: readonly string[]) =>
        walvault(["gap", "accept", d, "--timeline=1", "--reason=its disk is gone", ...words]);
      for (
        const [words, problem] of [
          [["--from=0/1"], /the segment at 0\/0 on timeline 1 is in no gap/],
          [[`--from=${formatLsn(endLsn)}`], /is in no gap/],
          [[`--from=${formatLsn(startLsn)}`, "--to=FF/0"], /ends at/],
          [[`--from=${formatLsn(startLsn)}`, "--reason= "], /No reason is given/],
          [[`--from=${formatLsn(startLsn)}`, "--timeline=2"], /on timeline 2 is in no gap/],
        ] as const
      ) {
        const refused = accept(words);
        assert.equal(refused.code, 2, refused.stdout);
        assert.match(refused.stderr, problem);
      }
      assert.equal(gap(["list", d]).code, 1);
      const target = ["fetch", d, names[0]!, join(directory.file("target"))];
      const verify = () => walvault(["verify", d, "-q"]);
      const check = () => walvault(["status", d, "--check"]);
      assert.deepEqual([verify().code, check().code, walvault(target).code], [1, 1, 200]);
      assert.match(verify().stdout, /^hole: .*; recorded \d{4}-.*\n +hint: .*walvault gap list/m);
      assert.match(check().stdout, /1 recorded gap is open \(.*\): walvault gap list/);
      assert.match(
        walvault(target).stderr,
        /it lies in the gap from .* which was recorded .*walvault gap list/,
      );
      assert.match(walvault(["status", d]).stdout, /^Gap +.* on timeline 1: open, recorded \d{4}-/m);
      const accepted = accept([`--from=${formatLsn(startLsn)}`]);
      assert.equal(accepted.code, 0, accepted.stderr);
      assert.match(accepted.stdout, /^accepted: timeline 1, .*\nNo restore can go across it: .*base backup/);
      const { code, answer } = gap(["list", d]);
      assert.deepEqual([code, answer.open, answer.gaps.map(({ state }) => state)], [0, 0, ["accepted"]]);
      assert.match(
        walvault(["gap", "list", d]).stdout,
        /accepted \d{4}-.* by .*: its disk is gone\nno gap is open\n$/,
      );
      assert.ok(!fs.existsSync(join(path, names[0]!)));
      const [verified, checked, fetched] = [verify(), check(), walvault(target)];
      assert.equal(verified.code, 0, verified.stdout);
      assert.match(verified.stdout, /^note: .*; given up \d{4}-.*: its disk is gone\n/m);
      assert.equal(checked.code, 0, checked.stdout);
      assert.equal(fetched.code, 200, "nobody can go across it");
      assert.match(fetched.stderr, /which was given up .*its disk is gone.*no restore goes across it/);
      assert.match(walvault(["status", d]).stdout, /^Gap +.*: accepted .*: its disk is gone$/m);
      return Promise.resolve();
    }),
);
