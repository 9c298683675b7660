import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { PieceCompressor } from "../../lib/archive/compression.ts";
import { type DirectDisk, openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { ArchiveDirectory } from "../../lib/restore/archive_directory.ts";
import {
  fetchFile,
  type FetchOutcome,
  prepareRestore,
  type Proof,
  type Restore,
} from "../../lib/restore/fetch_file.ts";
import { type Boot, isPrepared, isPreparingName, preparingName } from "../../lib/restore/prepared_file.ts";
import { beginNext, prepareSegment, removePrepared } from "../../lib/restore/read_ahead.ts";
import { parseRequestedName } from "../../lib/restore/requested_file.ts";
import { SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { FIRST, nameOf, QUICK, Scene, scenery, SEGMENT_SIZE } from "./restore_scene.ts";

const { segments } = scenery();
const NEXT = nameOf(FIRST + 1);
const SKIP = process.geteuid === undefined ? "needs user numbers" : false;
const AHEAD: Boot = {
  bootId: "0123456789abcdef0123456789abcdef",
  serverRun: "17 1700000000 2049 77",
  userId: process.geteuid?.() ?? 0,
};

function compressed(bytes: Uint8Array): Uint8Array {
  const compressor = new PieceCompressor({ format: "zstd", level: 1 });
  return new Uint8Array(Buffer.concat([...compressor.push(bytes), ...compressor.end()]));
}

function serverOf(scene: Scene) {
  return {
    data: openDirectDisk(scene.data),
    wal: openDirectDisk(join(scene.data, "pg_wal")),
    targetName: "RECOVERYXLOG",
  };
}

interface Call {
  readonly ahead?: Boot;
  readonly proof?: Proof;
  readonly archive?: string;
}

async function restoreOf(scene: Scene, { ahead = AHEAD, proof = "records", archive }: Call = {}) {
  const directory = await ArchiveDirectory.open(openDirectDisk(archive ?? scene.archive));
  const restore: Restore = await prepareRestore(directory, serverOf(scene), { ...QUICK, proof, ahead });
  return { ...restore, ahead };
}

async function deliver(scene: Scene, name: string, call: Call = {}): Promise<FetchOutcome> {
  return await fetchFile(await restoreOf(scene, call), parseRequestedName(name)!, { tail: "allowed" });
}

/** The first half: the file that a call leaves for the process that it starts. */
async function begin(scene: Scene, delivered = nameOf(FIRST)) {
  scene.own("RECOVERYXLOG", segments[0]!);
  return await beginNext(openDirectDisk(scene.archive), serverOf(scene), { delivered, suffix: "x1" });
}

/** Both halves; the file that is then there. */
async function prepare(scene: Scene, call: Call = {}): Promise<string> {
  const preparing = await begin(scene);
  assert.ok(preparing !== undefined);
  await prepareSegment(await restoreOf(scene, call), serverOf(scene).wal, preparing);
  const [name] = scene.walNames.filter(isPrepared);
  assert.ok(name !== undefined && !name.endsWith(".tmp"));
  return join(scene.data, "pg_wal", name);
}

function assertTarget(scene: Scene, bytes: Uint8Array): void {
  assert.ok(scene.target !== undefined && Buffer.compare(scene.target, bytes) === 0, "other bytes");
}

/** With the second segment as the archive would have it in this form. */
function fill(scene: Scene, form: "" | ".zst"): void {
  scene.fill(segments, 3);
  if (form === "") return;
  scene.remove(NEXT);
  scene.put(NEXT + form, compressed(segments[1]!));
}

for (const form of ["", ".zst"] as const) {
  test(
    `what was read ahead of a segment${form} is given to the server by a rename`,
    { skip: SKIP },
    async () => {
      using scene = new Scene();
      fill(scene, form);
      const prepared = await prepare(scene);
      const { ino } = fs.statSync(prepared);
      assert.deepEqual(await deliver(scene, NEXT), { kind: "delivered", path: NEXT + form, readAhead: true });
      assertTarget(scene, segments[1]!);
      assert.equal(fs.statSync(join(scene.data, "pg_wal/RECOVERYXLOG")).ino, ino);
      assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
      assert.equal(fs.statSync(join(scene.data, "pg_wal/RECOVERYXLOG")).mode & 0o777, 0o600);
    },
  );
}

test(
  "what was read ahead in another way, or of another file, is not what is asked for",
  { skip: SKIP },
  async () => {
    interface Case {
      readonly change?: (scene: Scene, prepared: string) => void;
      readonly call?: (scene: Scene) => Call;
      readonly bytes?: Uint8Array;
    }
    const other = scenery({ seed: 1 }).segments[1]!;
    const put = (path: string, change: (bytes: Uint8Array) => Uint8Array | void) => {
      const bytes = new Uint8Array(fs.readFileSync(path));
      fs.writeFileSync(path, change(bytes) ?? bytes);
    };
    const cases: Readonly<Record<string, Case>> = {
      "before the machine was started": {
        call: () => ({ ahead: { ...AHEAD, bootId: AHEAD.bootId.replace("0", "1") } }),
      },
      "before the server was started": {
        call: () => ({ ahead: { ...AHEAD, serverRun: AHEAD.serverRun.replace("17 ", "18 ") } }),
      },
      "and its last page lost since": {
        change: (_, path) =>
          put(path, (bytes) => void bytes.set(segments[2]!.subarray(0, 8192), bytes.length - 8192)),
      },
      "by another user": { call: () => ({ ahead: { ...AHEAD, userId: AHEAD.userId + 1 } }) },
      "with a shorter look": { call: () => ({ proof: "pages" }) },
      "and cut off since": { change: (_, path) => put(path, (bytes) => bytes.subarray(0, -1)) },
      "and longer since": { change: (_, path) => put(path, (bytes) => new Uint8Array([...bytes, 0])) },
      "and empty since": { change: (_, path) => put(path, (bytes) => void bytes.fill(0)) },
      "of another segment": {
        change: (_, path) => put(path, () => segments[2]!),
      },
      "and now a link": {
        change: (scene, path) => {
          const elsewhere = join(scene.path, "elsewhere");
          fs.renameSync(path, elsewhere);
          fs.symlinkSync(elsewhere, path);
        },
      },
      "and now a directory": {
        change: (_, path) => {
          fs.rmSync(path);
          fs.mkdirSync(path);
        },
      },
      "of a file that was exchanged": {
        change: (scene) => {
          scene.put("fresh", other);
          fs.renameSync(join(scene.archive, "fresh"), join(scene.archive, NEXT));
        },
        bytes: other,
      },
      "of a file that was written to": { change: (scene) => scene.put(NEXT, other), bytes: other },
      "of another archive": {
        call: (scene) => {
          const copy = join(scene.path, "copy");
          fs.mkdirSync(join(copy, "inprogress"), { recursive: true });
          for (const name of ["archive.json", NEXT]) {
            fs.linkSync(join(scene.archive, name), join(copy, name));
          }
          return { archive: copy };
        },
      },
    };
    for (const [name, { change, call, bytes = segments[1]! }] of Object.entries(cases)) {
      using scene = new Scene();
      scene.fill(segments, 3);
      const prepared = await prepare(scene);
      change?.(scene, prepared);
      assert.deepEqual(await deliver(scene, NEXT, call?.(scene)), { kind: "delivered", path: NEXT }, name);
      assertTarget(scene, bytes);
    }
  },
);

test("what was read ahead changes no decision", { skip: SKIP }, async () => {
  const refusals: Readonly<Record<string, readonly [change: (scene: Scene) => void, text: RegExp]>> = {
    "a hole": [(scene) => scene.remove(NEXT), /is not there, but .* of the same timeline is there/],
    "damage": [(scene) => scene.put(NEXT, segments[1]!.slice().fill(7, 8192, 9000)), /Cannot deliver/],
    "an outage": [(scene) => scene.remove("."), /there is no such directory/],
    "another cluster": [
      (scene) =>
        scene.put(
          "archive.json",
          encodeIdentity({ systemIdentifier: SYSTEM_IDENTIFIER + 1n, segmentSize: SEGMENT_SIZE }),
        ),
      /it belongs to the cluster with system identifier/,
    ],
    "another server": [
      (scene) => fs.writeFileSync(join(scene.data, "global/pg_control"), new Uint8Array(8192)),
      /it belongs to the cluster with system identifier/,
    ],
    "a fork": [
      (scene) => {
        fs.writeFileSync(join(scene.data, "standby.signal"), "");
        scene.put("00000002.history", "1\t0/400100\tno recovery target specified\n");
      },
      /to a standby: timeline 2 left timeline 1 at 0\/400100/,
    ],
  };
  for (const [name, [change, text]] of Object.entries(refusals)) {
    using scene = new Scene();
    scene.fill(segments, 3);
    await prepare(scene);
    change(scene);
    await assert.rejects(deliver(scene, NEXT), text, name);
    assertTarget(scene, segments[0]!);
  }
});

test("nothing is made where nobody waits for it any more", { skip: SKIP }, async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const preparing = await begin(scene);
  assert.deepEqual(preparing, { segment: NEXT, into: preparingName(NEXT, "x1") });
  const { wal } = serverOf(scene);
  await removePrepared(wal);
  await prepareSegment(await restoreOf(scene), wal, preparing!);
  assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);

  /** Removes the file, or puts another one in its place, right before the given operation. */
  const interrupted = async (step: number, after: "gone" | "another") => {
    scene.own(preparing!.into, "");
    let steps = 0;
    const count = () => {
      if (++steps !== step) return;
      fs.rmSync(join(scene.data, "pg_wal", preparing!.into), { force: true });
      if (after === "another") scene.own(preparing!.into, "of another call");
    };
    const counted: DirectDisk = {
      ...wal,
      entry: (path) => (count(), wal.entry(path)),
      rename: (from, to) => (count(), wal.rename(from, to)),
      openToWrite: async (path) => {
        count();
        const file = await wal.openToWrite(path);
        return file && { ...file, write: (...words) => (count(), file.write(...words)) };
      },
    };
    await prepareSegment(await restoreOf(scene), counted, preparing!).catch(() => {});
    return steps;
  };
  const all = await interrupted(0, "gone");
  assert.ok(all > 6);
  await removePrepared(wal);
  for (let step = 1; step <= all; step++) {
    await interrupted(step, "gone");
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"], `gone before step ${step}`);
  }
});

test("only what is whole and right is read ahead", { skip: SKIP }, async () => {
  const changes: Readonly<Record<string, (scene: Scene) => void>> = {
    "a changed byte": (scene) => {
      const bytes = segments[1]!.slice();
      bytes[500_000]! ^= 0x40;
      scene.put(NEXT, bytes);
    },
    "a short one": (scene) => scene.put(NEXT, segments[1]!.subarray(0, -8192)),
    "one cut off": (scene) => {
      scene.remove(NEXT);
      scene.put(`${NEXT}.zst`, compressed(segments[1]!).subarray(0, -1));
    },
    "one of a stranger": (scene) => {
      const bytes = segments[1]!.slice();
      bytes[24]! ^= 1;
      scene.put(NEXT, bytes);
    },
    "gone since": (scene) => scene.remove(NEXT),
    "changed while it was read": (scene) => {
      const disk = openDirectDisk(scene.archive);
      fs.utimesSync(join(disk.root, NEXT), 1, 1);
    },
  };
  for (const [name, change] of Object.entries(changes)) {
    using scene = new Scene();
    scene.fill(segments, 3);
    const preparing = await begin(scene);
    const { wal } = serverOf(scene);
    const restore = await restoreOf(scene);
    if (name === "changed while it was read") {
      const entry = (path: string) => wal.entry(path).finally(() => change(scene));
      await prepareSegment(restore, { ...wal, entry }, preparing!);
    } else {
      change(scene);
      await prepareSegment(restore, wal, preparing!).catch(() => {});
    }
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"], name);
  }
});

test("nothing is read ahead where the archive has no next segment, or the disk no room", async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const server = serverOf(scene);
  scene.own("RECOVERYXLOG", segments[0]!);
  const archive = openDirectDisk(scene.archive);
  const next = (delivered: string, wal = server.wal) =>
    beginNext(archive, { ...server, wal }, { delivered, suffix: "x1" });
  assert.equal(await next(nameOf(FIRST + 2)), undefined, "it grows");
  assert.equal(await next(nameOf(FIRST + 9)), undefined);
  const space = () => Promise.resolve({ freeBytes: 4 * SEGMENT_SIZE - 1, totalBytes: 1e9 });
  assert.equal(await next(nameOf(FIRST), { ...server.wal, space }), undefined);
  const full = () => Promise.reject(Object.assign(new Error("full"), { code: "ENOSPC" }));
  await assert.rejects(next(nameOf(FIRST), { ...server.wal, create: full }), /full/);
  assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  assert.equal((await next(nameOf(FIRST)))?.segment, NEXT);

  // And one that gets full meanwhile keeps nothing of it.
  const preparing = { segment: NEXT, into: preparingName(NEXT, "x1") };
  const openToWrite = async (path: string) => {
    const file = await server.wal.openToWrite(path);
    return file && { ...file, write: full };
  };
  await assert.rejects(
    prepareSegment(await restoreOf(scene), { ...server.wal, openToWrite }, preparing),
    /full/,
  );
  assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
});

test(
  "a file that gets its other name while names are listed is removed all the same",
  { skip: SKIP },
  async () => {
    using scene = new Scene();
    scene.fill(segments, 3);
    await prepare(scene);
    const { wal } = serverOf(scene);
    let lists = 0;
    // Neither name is in the first listing.
    const list = async () => lists++ === 0 ? [] : await wal.list(".");
    await removePrepared({ ...wal, list });
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  },
);

test("names that are read ahead are told from all others", () => {
  const name = preparingName(NEXT, "0a9z");
  assert.equal(name, `walvault-ahead-${NEXT}-0a9z.tmp`);
  assert.ok(isPrepared(name) && isPreparingName(name, NEXT));
  assert.ok(isPrepared(`walvault-ahead-${NEXT}-${AHEAD.bootId}-1f-0123abcd`));
  for (
    const other of [
      NEXT,
      "RECOVERYXLOG",
      "RECOVERYXLOG.tmp",
      "walvault-ahead",
      `walvault-ahead-${NEXT}`,
      `walvault-ahead-${NEXT}-../x.tmp`,
      `${name}/x`,
      `x${name}`,
    ]
  ) {
    assert.ok(!isPrepared(other) && !isPreparingName(other, NEXT), other);
  }
  assert.ok(!isPreparingName(name, nameOf(FIRST)));
  assert.ok(!isPreparingName(`walvault-ahead-${NEXT}-a/../b.tmp`, NEXT));
});
