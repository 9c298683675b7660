/** An archive and a data directory on the real disk, for tests of `fetch`. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { ArchiveDirectory } from "../../lib/restore/archive_directory.ts";
import { fetchFile, type FetchOutcome, prepareRestore, type Proof } from "../../lib/restore/fetch_file.ts";
import { parseRequestedName } from "../../lib/restore/requested_file.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

export const SEGMENT_SIZE = segmentSize(MIB);
/** Looks twice without a pause. */
export const QUICK = { proof: "records", pause: () => Promise.resolve() } as const;
/** The first segment of the scene's WAL. */
export const FIRST = 3;

/** The name of a segment of a timeline. */
export function nameOf(number: number, timeline = 1): string {
  return segmentName(timelineId(timeline), segmentNumber(BigInt(number)), SEGMENT_SIZE);
}

/** WAL of some segments from `FIRST` on; the last one ends in its middle, or with an XLOG_SWITCH. */
export function scenery(
  options: { readonly segments?: number; readonly timeline?: number; readonly seed?: number } = {},
): { readonly segments: readonly Uint8Array[]; readonly ends: readonly bigint[] } {
  const { segments: count = 4, timeline = 1, seed = 0 } = options;
  const startLsn = BigInt(FIRST * MIB);
  const records: RecordPlan[] = [];
  for (let total = 0; total < (count - 0.5) * MIB; total += 5000) {
    records.push({ totalBytes: 5000 + seed * 8 });
  }
  const { segments, records: placed } = buildWal({ startLsn, segmentBytes: MIB, records, timeline });
  return { segments, ends: placed.map((record) => record.endLsn) };
}

/** One archive, one data directory, both below a directory that is removed at the end. */
export class Scene {
  readonly path = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), "wv-restore-")));
  readonly archive = join(this.path, "archive");
  readonly data = join(this.path, "data");

  constructor(options: { readonly identity?: "archive.json" | "none" } = {}) {
    fs.mkdirSync(join(this.archive, "inprogress"), { recursive: true });
    fs.mkdirSync(join(this.data, "pg_wal"), { recursive: true });
    fs.mkdirSync(join(this.data, "global"));
    const control = new Uint8Array(8192);
    new DataView(control.buffer).setBigUint64(0, SYSTEM_IDENTIFIER, true);
    fs.writeFileSync(join(this.data, "global/pg_control"), control);
    fs.writeFileSync(join(this.data, "postmaster.pid"), `17\n${this.data}\n1700000000\n5432\n`);
    if (options.identity === "none") fs.rmdirSync(join(this.archive, "inprogress"));
    else {this.put(
        "archive.json",
        encodeIdentity({ systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SEGMENT_SIZE }),
      );}
  }

  /** Writes a file of the archive. */
  put(path: string, bytes: Uint8Array | string): void {
    fs.mkdirSync(dirname(join(this.archive, path)), { recursive: true });
    fs.writeFileSync(join(this.archive, path), bytes);
  }

  remove(path: string): void {
    fs.rmSync(join(this.archive, path), { recursive: true });
  }

  /** Publishes the first `count` segments; the next, if there is one, is in progress. */
  fill(segments: readonly Uint8Array[], count: number, timeline = 1): void {
    for (const [index, bytes] of segments.entries()) {
      if (index > count) return;
      this.put((index < count ? "" : "inprogress/") + nameOf(FIRST + index, timeline), bytes);
    }
  }

  /** A file of the server's own pg_wal. */
  own(name: string, bytes: Uint8Array | string): void {
    fs.writeFileSync(join(this.data, "pg_wal", name), bytes);
  }

  /** What the target holds now. */
  get target(): Uint8Array | undefined {
    const path = join(this.data, "pg_wal/RECOVERYXLOG");
    return fs.existsSync(path) ? new Uint8Array(fs.readFileSync(path)) : undefined;
  }

  /** Everything in pg_wal: nothing half done may be left. */
  get walNames(): readonly string[] {
    return fs.readdirSync(join(this.data, "pg_wal")).sort();
  }

  async fetch(
    name: string,
    tail: "allowed" | "withheld" = "allowed",
    { proof = "records", untilGap = false }: { readonly proof?: Proof; readonly untilGap?: boolean } = {},
  ): Promise<FetchOutcome> {
    fs.rmSync(join(this.data, "pg_wal/RECOVERYXLOG"), { force: true });
    const server = {
      data: openDirectDisk(this.data),
      wal: openDirectDisk(join(this.data, "pg_wal")),
      targetName: "RECOVERYXLOG",
    };
    const archive = await ArchiveDirectory.open(openDirectDisk(this.archive));
    const restore = await prepareRestore(archive, server, { ...QUICK, proof, untilGap });
    return await fetchFile(restore, parseRequestedName(name)!, { tail });
  }

  [Symbol.dispose](): void {
    fs.rmSync(this.path, { recursive: true, force: true });
  }
}

/** The bytes up to an LSN, the rest zero. */
export function cutAt(segment: Uint8Array, number: number, endLsn: bigint): Uint8Array {
  const bytes = segment.slice();
  bytes.fill(0, Number(endLsn - BigInt(number * MIB)));
  return bytes;
}

/** The end of the last record that ends before `limit`. */
export function lastEnd(ends: readonly bigint[], limit: bigint): bigint {
  return lsn(ends.filter((end) => end <= limit).at(-1) ?? 0n);
}
