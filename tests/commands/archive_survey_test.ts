import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { surveyArchive } from "../../lib/commands/archive_survey.ts";
import { ArchiveDirectory } from "../../lib/restore/archive_directory.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { buildWal, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

const MIB = 1024 * 1024;
const nameOf = (number: number) =>
  `0000000100000000000000${number.toString(16).padStart(2, "0").toUpperCase()}`;

/** Surveys an archive of segments 3 to 8 whose listings lack these, one after the other; the last one is repeated. */
async function survey(
  listings: readonly (readonly number[])[],
): Promise<{ readonly holes: number; readonly listed: number }> {
  const path = fs.mkdtempSync(join(tmpdir(), "wv-survey-"));
  try {
    fs.mkdirSync(join(path, "inprogress"));
    const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: segmentSize(MIB) };
    fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
    const { segments } = buildWal({
      startLsn: 3n * BigInt(MIB),
      segmentBytes: MIB,
      records: Array.from({ length: 1000 }, () => ({ totalBytes: 6000 })),
    });
    for (let number = 3; number <= 8; number++) {
      fs.writeFileSync(join(path, nameOf(number)), segments[number - 3]!);
    }
    const disk = openDirectDisk(path);
    let listed = 0;
    const list = async (directory: string) => {
      const names = await disk.list(directory);
      if (directory !== ".") return names;
      const hidden = (listings[Math.min(listed++, listings.length - 1)] ?? []).map(nameOf);
      return names?.filter((name) => !hidden.includes(name));
    };
    const { newest } = await surveyArchive(await ArchiveDirectory.open({ ...disk, list }));
    return { holes: newest?.holes.length ?? -1, listed };
  } finally {
    fs.rmSync(path, { recursive: true, force: true });
  }
}

test("a segment that changes its form while a listing passes is no hole", async () => {
  assert.deepEqual(await survey([[7, 8]]), { holes: 0, listed: 1 });
  assert.equal((await survey([[5, 7, 8], []])).holes, 0);
});

test("one that does so in the second listing, newer than the first, is none either", async () => {
  assert.equal((await survey([[5, 7, 8], [4, 7], []])).holes, 0);
});

test("what no listing has is a hole", async () => {
  assert.deepEqual(await survey([[5]]), { holes: 1, listed: 2 });
  assert.equal((await survey([[5, 7, 8], [5, 7], [5]])).holes, 1);
});
