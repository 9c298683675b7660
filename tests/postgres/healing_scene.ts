/** An archive that lacks what a real server removed, and whoever still has that. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { walvault } from "./pusher.ts";
import { ArchiveFiles, caughtUp, MIB, segmentOf, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { TABLE } from "./workload.ts";

export const segmentBytes = MIB;
const GREEDY = { min_wal_size: "2MB", max_wal_size: "2MB", wal_keep_size: "0", autovacuum: "off" };

/** An archive with one gap, and all segments of it as the server had them. */
export interface Scene {
  readonly cluster: Cluster;
  /** Streams from the cluster, and removes nothing. */
  readonly standby: Cluster;
  readonly archive: ArchiveFiles;
  readonly gap: { readonly startLsn: Lsn; readonly endLsn: Lsn; readonly names: readonly string[] };
  /** A directory with the gap's segments. */
  readonly copies: string;
}

/** What `gap` answers with `--json`. */
export interface GapAnswer {
  readonly open: number;
  readonly gaps: readonly {
    readonly state: string;
    readonly startLsn: string;
    readonly endLsn: string;
    readonly segments: number;
    readonly recorded?: boolean;
    readonly unproven?: boolean;
    readonly answers?: readonly {
      readonly source: string;
      readonly segments: number;
      readonly answer?: string;
    }[];
  }[];
}

/** Runs `gap`. */
export function gap(words: readonly string[]): { readonly code: number | null; readonly answer: GapAnswer } {
  const { code, stdout, stderr } = walvault(["gap", ...words, "--json"]);
  assert.match(stdout, /^\{.*\}\n$/, `${words.join(" ")}: exit ${code}: ${stderr}`);
  return { code, answer: JSON.parse(stdout) };
}

/** Some more segments. */
export async function churn(cluster: Cluster): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'more')");
  }
}

/** Runs with a server that removed WAL which its receiver had not got, and a standby that has it. */
export async function withGap(
  use: (scene: Scene, directory: WorkDirectory) => Promise<void>,
): Promise<void> {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({
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
export function copyOf({ archive }: Scene, path: string): string {
  fs.cpSync(archive.directory, path, { recursive: true, preserveTimestamps: true });
  return `--archive=${path}`;
}

/** All of the gap is here, as the server had it. */
export function assertHealed({ copies, gap: { names } }: Scene, path: string): void {
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
