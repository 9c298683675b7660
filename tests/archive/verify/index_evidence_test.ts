import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { DamagedFileError } from "../../../lib/archive/damaged_file.ts";
import { openDirectDisk } from "../../../lib/archive/direct_disk.ts";
import { directIndexWorker } from "../../../lib/archive/index_worker.ts";
import type { Finding } from "../../../lib/archive/verify/finding.ts";
import { openDirectProver, openProofThreads } from "../../../lib/archive/verify/prover.ts";
import { verifyDirectory } from "../../../lib/archive/verify/verify.ts";
import { find } from "../../../lib/commands/find.ts";
import { findCommand, type FindCommandOptions } from "../../../lib/commands/find_options.ts";
import { FIRST, nameOf, Scene, SEGMENT_SIZE } from "../../restore/restore_scene.ts";
import { filler, NOON, transactionEnd } from "../../wal/record_plans.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../../wal/wal_builder.ts";

const [BEFORE, NAME, AFTER] = [nameOf(FIRST), nameOf(FIRST + 1), nameOf(FIRST + 2)] as const;
/** Within the bytes that a segment continues from the one before. */
const SHARED_OFFSET = 60;
const XID = 5000;

/** Three whole segments, whose borders lie within records; `XID` ends in the middle of the second. */
function walOfThree(): readonly Uint8Array[] {
  const records: RecordPlan[] = [];
  for (let bytes = 0; bytes < 3.5 * MIB; bytes += 7000) {
    if (bytes === 217 * 7000) records.push(transactionEnd({ xid: XID, us: NOON }));
    records.push(filler(7000));
  }
  return buildWal({ startLsn: BigInt(FIRST * MIB), segmentBytes: MIB, records }).segments.slice(0, 3);
}

/** Where all records are right, and all indexes too. */
async function indexedScene(): Promise<Scene> {
  const scene = new Scene();
  scene.fill(walOfThree(), 3);
  assert.deepEqual(await verify(scene), []);
  assert.equal(fs.readdirSync(join(scene.archive, "index")).length, 3);
  return scene;
}

async function verify(
  scene: Scene,
  { userId = process.geteuid?.(), threads = 0 }: {
    readonly userId?: number | undefined;
    readonly threads?: number;
  } = {},
): Promise<readonly Finding[]> {
  const { findings } = await verifyDirectory(openDirectDisk(scene.archive), {
    range: {},
    userId,
    openProver: () =>
      threads > 0 ? openProofThreads(scene.archive, threads) : openDirectProver(scene.archive),
    onProgress: () => {},
    signal: new AbortController().signal,
  });
  return findings;
}

async function findXid(scene: Scene): Promise<string> {
  let options: FindCommandOptions = {};
  const command = findCommand((parsed) => {
    options = parsed;
    return Promise.resolve();
  });
  await command.parseAsync([`--archive=${scene.archive}`, `--xid=${XID}`], { from: "user" });
  let text = "";
  const output = { isTerminal: false, write: (piece: string) => void (text += piece) };
  const signal = new AbortController().signal;
  await find(options, { stdout: output, stderr: output, env: {}, signal });
  return text;
}

function flip(scene: Scene, name: string, offset: number): void {
  const path = join(scene.archive, name);
  const bytes = fs.readFileSync(path);
  bytes[offset]! ^= 1;
  fs.writeFileSync(path, bytes);
}

function indexOf(scene: Scene, name: string): string | undefined {
  const path = join(scene.archive, `index/${name}.idx`);
  return fs.existsSync(path) ? fs.readFileSync(path).toString("hex") : undefined;
}

for (const threads of [0, 2]) {
  test(`verify leaves the index that shows which side of a join has changed, ${threads} threads`, async () => {
    using scene = await indexedScene();
    const right = indexOf(scene, NAME);
    flip(scene, NAME, SHARED_OFFSET);
    await assert.rejects(scene.fetch(NAME), DamagedFileError);
    for (let runs = 0; runs < 2; runs++) {
      const findings = await verify(scene, { threads });
      assert.deepEqual(findings.map(({ kind, path }) => `${kind} ${path}`), [
        `damage ${NAME}`,
        `damage ${NAME}`,
      ]);
      assert.match(
        findings[1]?.problem ?? "",
        /^other bytes than when its index was made, and it does not join/,
      );
      assert.equal(indexOf(scene, NAME), right);
    }
    await assert.rejects(scene.fetch(NAME), DamagedFileError);
    flip(scene, NAME, SHARED_OFFSET);
    assert.deepEqual(await verify(scene, { threads }), []);
  });
}

test("find leaves the index that shows damage, and so does whoever keeps the indexes", async () => {
  using scene = await indexedScene();
  const right = indexOf(scene, NAME);
  assert.match(await findXid(scene), new RegExp(`recovery_target_xid = '${XID}'`));
  flip(scene, NAME, SHARED_OFFSET);
  assert.match(await findXid(scene), new RegExp(`recovery_target_xid = '${XID}'`));
  assert.equal(indexOf(scene, NAME), right);
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SEGMENT_SIZE };
  const modes = { file: 0o600, directory: 0o700 };
  const worker = directIndexWorker(openDirectDisk(scene.archive), { identity, modes });
  await assert.rejects(worker.index(NAME), /other bytes than when its index was made, and the index stays/);
  assert.equal(indexOf(scene, NAME), right);
  await assert.rejects(scene.fetch(NAME), DamagedFileError);
});

test("verify makes no first index of a segment that does not join, on either side", async () => {
  using scene = await indexedScene();
  fs.rmSync(join(scene.archive, "index"), { recursive: true });
  flip(scene, NAME, SHARED_OFFSET);
  const findings = await verify(scene);
  assert.deepEqual(findings.map(({ kind, path }) => `${kind} ${path}`), [`damage ${NAME}`]);
  assert.equal(indexOf(scene, BEFORE), undefined);
  assert.equal(indexOf(scene, NAME), undefined);
  assert.notEqual(indexOf(scene, AFTER), undefined);
});

test("verify makes an index anew where both joins prove the segment", async () => {
  using scene = await indexedScene();
  const right = indexOf(scene, NAME);
  // The padding of a page's header: no record has it.
  flip(scene, NAME, 8192 + 20);
  assert.match((await verify(scene))[0]?.problem ?? "", /^its index was of other bytes, and is made anew/);
  assert.notEqual(indexOf(scene, NAME), right);
  assert.deepEqual(await verify(scene), []);
});

test("what only the index shows is damage where no neighbour proves the shared record", async () => {
  const cases = [
    [
      "the first one, which continues a record",
      [BEFORE],
      NAME,
      SHARED_OFFSET,
      /shares with the segment before$/,
    ],
    ["the last one, whose record goes on", [AFTER], NAME, MIB - 100, /shares with the segment behind$/],
    [
      "one alone, where no record is touched",
      [BEFORE, AFTER],
      NAME,
      8192 + 20,
      /shares with the segment before and with the one behind$/,
    ],
  ] as const;
  for (const [what, removed, name, offset, problem] of cases) {
    using scene = await indexedScene();
    for (const each of removed) fs.rmSync(join(scene.archive, each));
    const right = indexOf(scene, name);
    flip(scene, name, offset);
    // Whoever may not write there is told the same.
    for (const userId of [process.geteuid?.(), undefined]) {
      const findings = await verify(scene, { userId });
      assert.deepEqual(findings.map(({ kind, path }) => `${kind} ${path}`), [`damage ${name}`], what);
      assert.match(findings[0]?.problem ?? "", problem);
      assert.match(findings[0]?.hint ?? "", new RegExp(`remove "index/${name}.idx"$`));
      assert.equal(indexOf(scene, name), right);
    }
    await assert.rejects(scene.fetch(name), DamagedFileError);
  }
});
