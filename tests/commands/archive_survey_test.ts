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

/** Surveys an archive of segments 3 to 8 without `absent`, of which a listing lacks `unlisted` too. */
async function survey(
  { absent = [], unlisted = [], unfinished }: {
    readonly absent?: readonly number[];
    readonly unlisted?: readonly number[];
    readonly unfinished?: number;
  },
): Promise<readonly string[]> {
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
      const folder = number === unfinished ? "inprogress" : "";
      if (!absent.includes(number)) {
        fs.writeFileSync(join(path, folder, nameOf(number)), segments[number - 3]!);
      }
    }
    const disk = openDirectDisk(path);
    const hidden = unlisted.map(nameOf);
    const list = async (directory: string) =>
      (await disk.list(directory))?.filter((name) => !hidden.includes(name));
    const { runs } = await surveyArchive(await ArchiveDirectory.open({ ...disk, list }));
    return runs.map(({ firstNumber, endNumber }) => `${firstNumber}-${endNumber}`);
  } finally {
    fs.rmSync(path, { recursive: true, force: true });
  }
}

test("a segment that changes its form while a listing passes is no hole", async () => {
  assert.deepEqual(await survey({ unlisted: [5] }), ["3-9"]);
  assert.deepEqual(await survey({ unlisted: [4, 5, 7] }), ["3-9"]);
});

test("an archive does not begin later because its first segment changes its form", async () => {
  assert.deepEqual(await survey({ unlisted: [3] }), ["3-9"]);
  assert.deepEqual(await survey({ unlisted: [3, 4] }), ["3-9"]);
});

test("nor because all that is complete came, or changed its form, since the listing", async () => {
  assert.deepEqual(await survey({ absent: [6, 7, 8], unlisted: [3, 4], unfinished: 5 }), ["3-5"]);
});

test("what is absent is a hole", async () => {
  assert.deepEqual(await survey({ absent: [5] }), ["3-5", "6-9"]);
  assert.deepEqual(await survey({ absent: [4, 6], unlisted: [5] }), ["3-4", "7-9"]);
  assert.deepEqual(await survey({ absent: [4], unlisted: [5, 6] }), ["3-4", "5-9"]);
});
