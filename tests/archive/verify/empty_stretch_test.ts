import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openDirectDisk } from "../../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../../lib/archive/identity.ts";
import { MAXIMUM_UNSYNCED_BYTES } from "../../../lib/archive/leg_sink.ts";
import type { Finding } from "../../../lib/archive/verify/finding.ts";
import { openDirectProver } from "../../../lib/archive/verify/prover.ts";
import { verifyDirectory } from "../../../lib/archive/verify/verify.ts";
import { segmentName, segmentNumber, segmentSize } from "../../../lib/wal/segment.ts";
import { timelineId } from "../../../lib/wal/timeline.ts";
import { buildWal, MIB, SYSTEM_IDENTIFIER } from "../../wal/wal_builder.ts";
import { inTemporaryDirectory } from "../temporary_directory.ts";

const SEGMENT_MIB = 16;
const SIZE = segmentSize(SEGMENT_MIB * MIB);
const NAME = segmentName(timelineId(1), segmentNumber(3n), SIZE);

/** The beginning of a segment. */
function tailOf(mib: number): Uint8Array {
  const records = Array.from({ length: Math.floor(mib * MIB / 5020) }, () => ({ totalBytes: 5000 }));
  const startLsn = BigInt(3 * SIZE);
  return buildWal({ startLsn, segmentBytes: SIZE, records }).segments[0]!;
}

async function verify(path: string, file: string, bytes: Uint8Array): Promise<readonly Finding[]> {
  for (const name of ["inprogress", "conflicts"]) fs.mkdirSync(join(path, name), { recursive: true });
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SIZE };
  fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
  fs.writeFileSync(join(path, file), bytes);
  const { findings } = await verifyDirectory(openDirectDisk(path), {
    range: {},
    openProver: () => openDirectProver(path),
    onProgress: () => {},
    signal: new AbortController().signal,
  });
  return findings;
}

const OWN = `inprogress/${NAME}`;
/** Where a lost block would be the first of all that a crash can leave unsynced. */
const OLDEST_UNSYNCED = 15.5 * MIB - MAXIMUM_UNSYNCED_BYTES;
const CASES: readonly (readonly [
  what: string,
  file: string,
  mib: number,
  zeroAt: number | undefined,
  want: "damage" | "note" | undefined,
])[] = [
  ["nothing is empty", OWN, 15.5, undefined, undefined],
  ["a block that had been synced", OWN, 15.5, MIB / 2, "damage"],
  ["the first block, and it had been synced", OWN, 15.5, 0, "damage"],
  ["a block just before what may not have been synced", OWN, 15.5, OLDEST_UNSYNCED - 5 * 8192, "damage"],
  ["a block at the beginning of what may not have been synced", OWN, 15.5, OLDEST_UNSYNCED, "note"],
  ["a block that may not have been synced", OWN, 15.5, 14 * MIB, "note"],
  ["the first block, and it may not have been synced", OWN, 2, 0, "note"],
  ["a saved copy, which may be of a receiver that never syncs", `${OWN}.saved-1`, 15.5, MIB / 2, "note"],
];

for (const [what, file, mib, zeroAt, want] of CASES) {
  test(`verify tells of WAL behind an empty stretch: ${what}`, () =>
    inTemporaryDirectory(async (path) => {
      const bytes = tailOf(mib);
      if (zeroAt !== undefined) bytes.fill(0, zeroAt, zeroAt + 8192);
      const findings = await verify(path, file, bytes);
      assert.deepEqual(findings.map(({ kind }) => kind), want === undefined ? [] : [want]);
      if (want === "note") {
        assert.match(findings[0]!.problem, /^WAL up to 0\/3[0-9A-F]{6} lies behind an empty stretch$/);
      }
      if (want === "damage") assert.match(findings[0]!.problem, /more WAL behind it$/);
    }));
}
