import assert from "node:assert/strict";
import { test } from "node:test";
import { type Adoption, isOfReceivers } from "../../lib/archive/adopt.ts";
import { Archive } from "../../lib/archive/archive.ts";
import { PieceCompressor } from "../../lib/archive/compression.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { readWhole } from "../../lib/archive/durable.ts";
import { IDENTITY, NAMES, NAMING, onSimDisk, walOf } from "./on_sim_disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";
import { MIB } from "../wal/wal_builder.ts";

const [A, B, C] = NAMES as [string, string, string];
const WAL = walOf({ bytes: 3 * MIB });
const segmentOf = (index: number) => WAL.subarray(index * MIB, (index + 1) * MIB);
/** Half a segment, and zeros behind it. */
const half = (index: number): Uint8Array => {
  const bytes = new Uint8Array(MIB);
  bytes.set(segmentOf(index).subarray(0, MIB / 2));
  return bytes;
};

function compressed(bytes: Uint8Array, format: "gzip" | "lz4"): Uint8Array {
  const compressor = new PieceCompressor({ format, level: 1 });
  return Buffer.concat([...compressor.push(bytes), ...compressor.end()]);
}

type Files = Readonly<Record<string, Uint8Array>>;

async function fill(disk: Disk, files: Files): Promise<void> {
  for (const [name, bytes] of Object.entries(files)) {
    if (name.includes("/") && await disk.entry("inprogress") === undefined) {
      await disk.makeDirectory("inprogress", 0o700);
    }
    const file = await disk.create(name, 0o600);
    await file.write(bytes, 0);
    await file.sync();
    await file.close();
  }
  await disk.syncDirectory(".");
  if (await disk.entry("inprogress") !== undefined) await disk.syncDirectory("inprogress");
}

/** As `receive` does it. */
async function adopt(disk: Disk, identity = IDENTITY): Promise<Adoption | undefined> {
  let adopted: Adoption | undefined;
  const options = {
    naming: NAMING,
    userId: undefined,
    onAdopted: (adoption: Adoption) => void (adopted = adoption),
  };
  const archive = await Archive.open(disk, options);
  await archive.claim(identity);
  return adopted;
}

async function namesOf(disk: Disk): Promise<readonly string[]> {
  const within = (await disk.list("inprogress") ?? []).map((name) => `inprogress/${name}`);
  return [...await disk.list(".") ?? [], ...within].sort();
}

const CASES: readonly {
  readonly name: string;
  readonly files: Files;
  readonly adoption: Adoption;
  readonly left: Files;
}[] = [
  {
    name: "of pg_receivewal",
    files: {
      [A]: segmentOf(0),
      [`${B}.partial`]: half(1),
      "00000002.history": new TextEncoder().encode("1\t0/300000\tx\n"),
      "00000002.history.tmp": new Uint8Array(3),
    },
    adoption: { segments: 1, partials: 1 },
    left: { [A]: segmentOf(0), [`inprogress/${B}.saved-1`]: half(1) },
  },
  {
    name: "of pg_receivewal that compressed",
    files: {
      [`${A}.lz4`]: compressed(segmentOf(0), "lz4"),
      [`${B}.lz4`]: compressed(segmentOf(1), "lz4"),
      [`${C}.lz4.partial`]: compressed(half(2), "lz4"),
      [`${C}.partial`]: half(2),
    },
    adoption: { segments: 2, partials: 2 },
    left: { [`inprogress/${C}.saved-2`]: half(2) },
  },
  {
    name: "of pg_streamrecv",
    files: {
      [A]: segmentOf(0),
      [`inprogress/${B}.save`]: half(1),
      [`inprogress/${C}`]: half(2).subarray(0, MIB / 2),
    },
    adoption: { segments: 1, partials: 0 },
    left: {
      [A]: segmentOf(0),
      [`inprogress/${B}.saved-1`]: half(1),
      [`inprogress/${C}`]: half(2).subarray(0, MIB / 2),
    },
  },
  {
    name: "of walvault as pg_receivewal",
    files: { [A]: segmentOf(0), [`${B}.partial`]: new Uint8Array(MIB), [`${B}.partial.saved-1`]: half(1) },
    adoption: { segments: 1, partials: 1 },
    left: { [A]: segmentOf(0), [`inprogress/${B}.saved-2`]: half(1) },
  },
];

for (const { name, files, adoption, left } of CASES) {
  test(`Archive.claim() makes a directory ${name} an archive`, () =>
    onSimDisk(async ({ disk }) => {
      await fill(disk, files);
      assert.deepEqual(await adopt(disk), adoption);
      const names = await namesOf(disk);
      assert.ok(names.includes("archive.json"));
      assert.ok(!names.some((each) => /\.(partial|save$|tmp)/.test(each)), names.join(" "));
      for (const [path, bytes] of Object.entries(left)) {
        assert.deepEqual(await readWhole(disk, path, 2 * MIB), Uint8Array.from(bytes), path);
      }
      assert.equal(await adopt(disk), undefined, "an archive is not adopted again");
    }));
}

test("an adoption that is killed, or cut off by power, at any operation is finished by the next one", async () => {
  const { files, left } = CASES[1]!;
  for (const how of ["kill", "power cut"] as const) {
    let done = false;
    for (let count = 1; !done; count++) {
      await onSimDisk(async (machine) => {
        await fill(machine.disk, files);
        const first = machine.restart("kill");
        const { disk, stopped } = stopAfter(first, count);
        const claimed = adopt(disk).then(() => "done" as const);
        done = await Promise.race([claimed, stopped]) === "done";
        const second = machine.restart(how);
        await adopt(second);
        const names = await namesOf(second);
        assert.ok(names.includes("archive.json") && names.includes(`${A}.lz4`) && names.includes(`${B}.lz4`));
        assert.ok(!names.some((each) => /\.partial/.test(each)), names.join(" "));
        const copies = await Promise.all(
          names.filter((each) => each.startsWith(`inprogress/${C}.saved-`)).map((each) =>
            readWhole(second, each, 2 * MIB)
          ),
        );
        const wanted = Buffer.from(Object.values(left)[0]!);
        assert.ok(
          copies.some((copy) => copy !== undefined && wanted.equals(copy)),
          `after ${count} operations`,
        );
      });
    }
  }
});

// Not on the simulated disk: the runtime's decoder works in the real event loop.
test("an adoption reads what a killed pg_receivewal left of a gzip file", () =>
  inTemporaryDirectory(async (path) => {
    const disk = openDirectDisk(path);
    const whole = compressed(half(2), "gzip");
    await fill(disk, {
      [`${A}.gz`]: compressed(segmentOf(0), "gzip"),
      [`${C}.gz.partial`]: whole.subarray(0, -20),
    });
    assert.deepEqual(await adopt(disk), { segments: 1, partials: 1 });
    const copy = await readWhole(disk, `inprogress/${C}.saved-1`, 2 * MIB);
    assert.deepEqual(copy?.subarray(0, MIB / 4), half(2).subarray(0, MIB / 4));
    assert.equal(copy?.length, MIB);
    assert.deepEqual(await namesOf(disk), [
      `${A}.gz`,
      "archive.json",
      "inprogress",
      `inprogress/${C}.saved-1`,
    ]);
  }));

/** A disk that answers to `count` calls, and then never again. */
function stopAfter(disk: Disk, count: number): { readonly disk: Disk; readonly stopped: Promise<"stopped"> } {
  const { promise: stopped, resolve } = Promise.withResolvers<"stopped">();
  let calls = 0;
  const guard = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(object, key) {
        const value = Reflect.get(object, key);
        if (typeof value !== "function" || key === "then" || key === "allocate") return value;
        return async (...words: readonly unknown[]) => {
          if (++calls > count) {
            resolve("stopped");
            await new Promise(() => {});
          }
          const result = await value.apply(object, words);
          return key === "open" || key === "create" ? result && guard(result) : result;
        };
      },
    });
  return { disk: guard(disk), stopped };
}

function changed(bytes: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = bytes.slice();
  change(new DataView(copy.buffer));
  return copy;
}

const REFUSED: readonly (readonly [name: string, files: Files, message: RegExp])[] = [
  [
    "of another cluster",
    { [A]: segmentOf(0), [`${B}.partial`]: changed(half(1), (view) => view.setBigUint64(24, 5n, true)) },
    new RegExp(`"${B}.partial" in it belongs to the cluster with system identifier 5, the server has`),
  ],
  [
    "of another cluster, compressed",
    { [`${A}.lz4`]: compressed(changed(segmentOf(0), (view) => view.setBigUint64(24, 5n, true)), "lz4") },
    /belongs to the cluster with system identifier 5/,
  ],
  ["under a wrong name", { [B]: segmentOf(0) }, /begins at 0\/300000, its name says 0\/400000/],
  [
    "on a later timeline than its name",
    { [A]: changed(segmentOf(0), (view) => view.setUint32(4, 2, true)) },
    /begins with timeline 2, its name says 1/,
  ],
  [
    "with segments of another length",
    { [A]: changed(segmentOf(0), (view) => view.setUint32(32, 2 * MIB, true)) },
    /is of segments of 2097152 bytes/,
  ],
  ["of zeros", { [A]: new Uint8Array(MIB) }, /does not begin with the first page of a segment/],
  ["damaged", { [`${A}.lz4`]: Uint8Array.of(1, 2, 3) }, /does not begin with the first page of a segment/],
];

for (const [name, files, message] of REFUSED) {
  test(`Archive.claim() refuses a directory with a segment ${name}, and changes nothing`, () =>
    onSimDisk(async ({ disk }) => {
      await fill(disk, files);
      await assert.rejects(adopt(disk), { name: "WrongClusterError", message });
      assert.deepEqual(await namesOf(disk), Object.keys(files).sort());
    }));
}

test("Archive.open() takes such a directory only from those who may adopt, and none with other files", () =>
  onSimDisk(async ({ disk }) => {
    await fill(disk, { [A]: segmentOf(0) });
    const options = { naming: NAMING, userId: undefined };
    await assert.rejects(Archive.open(disk, options), /it has no archive\.json but 1 other entry/);
    await fill(disk, { "notes.txt": new Uint8Array(1) });
    await assert.rejects(adopt(disk), /it has no archive\.json but 1 other entry \("notes\.txt"\)/);
  }));

for (
  const [name, is] of [
    [A, true],
    [`${A}.gz`, true],
    [`${A}.zst.partial`, true],
    [`${A}.partial.saved-2`, true],
    [`${A}.bz2`, false],
    [`${A}.00000028.backup`, true],
    ["00000002.history", true],
    ["inprogress", true],
    ["archive_status", false],
    [A.toLowerCase().replace("3", "a"), false],
  ] as const
) {
  test(`isOfReceivers("${name}") is ${is}`, () => assert.equal(isOfReceivers(name), is));
}
