import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Random } from "../simulation/random.ts";
import { WorkDirectory } from "./receiver.ts";
import { findAll, FlippedArchive, randomFlips } from "./verify_flips.ts";
import { makeThreeTimelines, type ThreeTimelines, writeArchive } from "./verify_scene.ts";

const timeout = 300_000;
/** All of them take an hour: `task test:soak verify_flips`. */
const HEADER_FLIPS = 800;
const OTHER_FLIPS = 800;
const COMPRESSED_FLIPS = 500;

describe("verify finds each flipped bit, or it changes nothing", { timeout }, () => {
  let wal: ThreeTimelines;
  before(async () => void (wal = await makeThreeTimelines()), { timeout });

  const inArchive = async (
    forms: Parameters<typeof writeArchive>[2],
    use: (archive: FlippedArchive, random: Random) => Promise<void>,
  ) => {
    using directory = new WorkDirectory();
    const path = directory.archive();
    writeArchive(path, wal, forms);
    const archive = new FlippedArchive(path);
    await archive.check();
    await use(archive, new Random(4));
  };

  test(
    "in histories and the identity, every one",
    { timeout },
    () =>
      inArchive(["plain"], async (archive) => {
        assert.deepEqual(archive.texts(), ["00000002.history", "00000003.history", "archive.json"]);
        for (const path of archive.texts()) await findAll(archive, archive.allFlips(path));
      }),
  );

  test("in page headers, some", { timeout }, () =>
    inArchive(["plain"], async (archive, random) => {
      const all = archive.segments().flatMap((path) => [...archive.headerFlips(path)]);
      await findAll(archive, Array.from({ length: HEADER_FLIPS }, () => random.pick(all)));
    }));

  test("anywhere in plain files, some", { timeout }, () =>
    inArchive(["plain"], async (archive, random) => {
      await findAll(archive, randomFlips(archive, random, OTHER_FLIPS));
    }));

  test(
    "anywhere in compressed files, some",
    { timeout },
    () =>
      inArchive(["zstd", "gzip", "lz4"], async (archive, random) => {
        await findAll(archive, randomFlips(archive, random, COMPRESSED_FLIPS));
      }),
  );
});
