/** Archives of real WAL over three timelines, for tests of `verify`. */
import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { join } from "node:path";
import { type CompressionFormat, FORM_OF_FORMAT, PieceCompressor } from "../../lib/archive/compression.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import type { Finding } from "../../lib/archive/verify/finding.ts";
import { isProblem } from "../../lib/archive/verify/finding.ts";
import { openDirectProver, type Prover } from "../../lib/archive/verify/prover.ts";
import type { VerifyReport } from "../../lib/archive/verify/report.ts";
import { verifyDirectory, type VerifyOptions } from "../../lib/archive/verify/verify.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { MIB } from "./receiver.ts";
import { TABLE } from "./workload.ts";

export const SEGMENT_SIZE = segmentSize(MIB);

/** Everything of three servers' `pg_wal`, each promoted after the one before. */
export interface ThreeTimelines {
  readonly systemIdentifier: bigint;
  /** What an archive of theirs holds, by name. The last segment of each timeline is in `growing`. */
  readonly complete: ReadonlyMap<string, Uint8Array>;
  readonly growing: ReadonlyMap<string, Uint8Array>;
  readonly histories: ReadonlyMap<string, Uint8Array>;
}

const SETTINGS = {
  wal_keep_size: "1GB",
  max_wal_size: "1GB",
  checkpoint_timeout: "1h",
  full_page_writes: "on",
};

let calls = 0;

async function work(cluster: Cluster, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    calls++;
    await cluster.sql(
      `INSERT INTO work SELECT '${calls}-' || g, repeat(md5(g::text), 2) FROM generate_series(1, 3000) g;
       UPDATE work SET payload = payload || 'x' WHERE id LIKE '%7';
       SELECT pg_logical_emit_message(false, 'large', repeat('walvault ', 20000))`,
    );
    // The last record of all is a short one.
    await cluster.sql(`INSERT INTO work VALUES ('${calls}-last', 'one')`);
  }
}

/**
 * Makes them: some segments of each timeline, an XLOG_SWITCH, records over many pages and over whole segments; or `few`, a
 * segment or two of each.
 */
export async function makeThreeTimelines(size: "some" | "few" = "some"): Promise<ThreeTimelines> {
  await using first = await startCluster({ segmentBytes: MIB, settings: SETTINGS });
  await first.sql(TABLE);
  await using second = await first.createStandby();
  await using third = await first.createStandby();
  await work(first, size === "few" ? 1 : 3);
  await first.sql("SELECT pg_switch_wal()");
  if (size === "some") {
    await first.sql(
      `SELECT pg_logical_emit_message(false, 'larger than a segment', repeat('walvault ', 250000))`,
    );
    await work(first, 1);
  }
  await follow(first, second, third);
  await first.stop();
  await second.promote();
  await third.configure({ primary_conninfo: second.conninfo({ application_name: "third" }) });
  await work(second, size === "few" ? 1 : 2);
  await follow(second, third);
  await second.stop();
  await third.promote();
  await work(third, size === "few" ? 1 : 2);
  const systemIdentifier = BigInt(await third.value("SELECT system_identifier FROM pg_control_system()"));
  const last = await third.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
  await third.stop();
  const complete = new Map<string, Uint8Array>();
  const growing = new Map<string, Uint8Array>();
  const histories = new Map<string, Uint8Array>();
  for (
    const [cluster, timeline] of [[first, "00000001"], [second, "00000002"], [third, "00000003"]] as const
  ) {
    const directory = join(cluster.dataDirectory, "pg_wal");
    const names = cluster.walFiles().filter((name) => name.startsWith(timeline));
    const written = names.filter((name) => isWritten(fs.readFileSync(join(directory, name)), name));
    for (const name of written) {
      const isLast = name === written.at(-1) || (cluster === third && name >= last);
      (isLast ? growing : complete).set(name, fs.readFileSync(join(directory, name)));
    }
    for (const name of fs.readdirSync(directory).filter((each) => each.endsWith(".history"))) {
      histories.set(name, fs.readFileSync(join(directory, name)));
    }
  }
  return { systemIdentifier, complete, growing, histories };
}

/** The first page has the address that the name tells. */
function isWritten(bytes: Uint8Array, name: string): boolean {
  const at = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8, true);
  return at === BigInt(`0x${name.slice(8, 16)}`) * 2n ** 32n + BigInt(`0x${name.slice(16)}`) * BigInt(MIB);
}

async function follow(primary: Cluster, ...standbys: readonly Cluster[]): Promise<void> {
  const end = await primary.value("SELECT pg_current_wal_flush_lsn()");
  for (const standby of standbys) {
    for (let i = 0; i < 3000; i++) {
      if (await standby.value(`SELECT (pg_last_wal_replay_lsn() >= '${end}')::text`) === "true") break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Writes an archive; `forms` says how segments are compressed, in turn. */
export function writeArchive(
  directory: string,
  wal: ThreeTimelines,
  forms: readonly (CompressionFormat | "plain")[] = ["plain"],
): void {
  fs.mkdirSync(join(directory, "inprogress"), { recursive: true });
  fs.mkdirSync(join(directory, "conflicts"), { recursive: true });
  const identity = { systemIdentifier: wal.systemIdentifier, segmentSize: SEGMENT_SIZE };
  fs.writeFileSync(join(directory, "archive.json"), encodeIdentity(identity));
  for (const [index, [name, bytes]] of [...wal.complete].entries()) {
    const form = forms[index % forms.length]!;
    if (form === "plain") fs.writeFileSync(join(directory, name), bytes);
    else fs.writeFileSync(join(directory, name + FORM_OF_FORMAT[form]), compress(bytes, form));
  }
  for (const [name, bytes] of wal.growing) fs.writeFileSync(join(directory, "inprogress", name), bytes);
  for (const [name, bytes] of wal.histories) fs.writeFileSync(join(directory, name), bytes);
}

/** A segment as the archive compresses it. */
export function compress(bytes: Uint8Array, format: CompressionFormat): Uint8Array {
  const compressor = new PieceCompressor({ format, level: 1 });
  return Buffer.concat([...compressor.push(bytes), ...compressor.end()]);
}

/** Verifies a directory on the calling thread. */
export function verifyIn(
  directory: string,
  options: Partial<VerifyOptions> & { readonly prover?: Prover } = {},
): Promise<VerifyReport> {
  return verifyDirectory(openDirectDisk(directory), {
    range: {},
    openProver: () => options.prover ?? openDirectProver(directory),
    onProgress: () => {},
    signal: new AbortController().signal,
    ...options,
  });
}

/** What makes the answer "no". */
export function problemsOf(report: VerifyReport): readonly Finding[] {
  return report.findings.filter(isProblem);
}
