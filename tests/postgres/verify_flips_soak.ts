import process from "node:process";
import { before, describe, test } from "node:test";
import { Random } from "../simulation/random.ts";
import { WorkDirectory } from "./receiver.ts";
import { findAll, type Flip, FlippedArchive, randomFlips } from "./verify_flips.ts";
import { makeThreeTimelines, type ThreeTimelines, writeArchive } from "./verify_scene.ts";

const timeout = 55 * 60_000;
/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);
const FLIPS = Number(process.env["WALVAULT_SOAK_FLIPS"] ?? "100000");
/** Of compressed files, which take longer to read. */
const COMPRESSED_SHARE = 0.25;
const TOLD_EVERY = 5000;

describe(`verify finds each flipped bit, or it changes nothing (seed ${seed})`, { timeout }, () => {
  let some: ThreeTimelines;
  let few: ThreeTimelines;
  before(async () => {
    some = await makeThreeTimelines();
    few = await makeThreeTimelines("few");
  }, { timeout });

  const inArchive = async (
    wal: ThreeTimelines,
    forms: Parameters<typeof writeArchive>[2],
    flipsOf: (archive: FlippedArchive, random: Random) => Iterable<Flip>,
  ) => {
    using directory = new WorkDirectory();
    const path = directory.archive();
    writeArchive(path, wal, forms);
    const archive = new FlippedArchive(path);
    await archive.check();
    const { found, harmless } = await findAll(archive, told(flipsOf(archive, new Random(seed))));
    const reasons = [...harmless].map(([reason, count]) => `, ${count} ${reason}`).join("");
    process.stdout.write(`${found} found${reasons}\n`);
  };

  test(
    "in every page header of every segment, in histories and the identity",
    { timeout },
    () =>
      inArchive(few, ["plain"], function* (archive) {
        for (const path of archive.texts()) yield* archive.allFlips(path);
        for (const path of archive.segments()) yield* archive.headerFlips(path);
      }),
  );

  test("anywhere in plain files", { timeout }, () =>
    inArchive(
      some,
      ["plain"],
      (archive, random) => randomFlips(archive, random, Math.ceil(FLIPS * (1 - COMPRESSED_SHARE))),
    ));

  test("anywhere in compressed files", { timeout }, () =>
    inArchive(
      some,
      ["zstd", "gzip", "lz4"],
      (archive, random) => randomFlips(archive, random, Math.ceil(FLIPS * COMPRESSED_SHARE)),
    ));
});

function* told(flips: Iterable<Flip>): Iterable<Flip> {
  let count = 0;
  for (const flip of flips) {
    if (++count % TOLD_EVERY === 0) process.stdout.write(`${count} flips\n`);
    yield flip;
  }
}
