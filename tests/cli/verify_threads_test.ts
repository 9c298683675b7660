import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { permissionOptions } from "../../tasks/permissions.ts";
import { buildWal, MIB, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;
const SEGMENTS = 4;

function temporaryDirectory() {
  const path = fs.mkdtempSync(join(tmpdir(), "wv-threads-"));
  return { path, [Symbol.dispose]: () => fs.rmSync(path, { recursive: true }) };
}

/** An archive of some whole segments. */
function makeArchive(path: string): void {
  const size = segmentSize(MIB);
  const records = Array.from({ length: 1000 }, () => ({ totalBytes: 5000 }));
  const { segments } = buildWal({ startLsn: BigInt(3 * MIB), segmentBytes: MIB, records });
  fs.mkdirSync(join(path, "inprogress"), { recursive: true });
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: size };
  fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
  for (const [index, bytes] of segments.slice(0, SEGMENTS).entries()) {
    fs.writeFileSync(join(path, segmentName(timelineId(1), segmentNumber(BigInt(3 + index)), size)), bytes);
  }
}

/** Runs `verify --jobs 2 --json`. */
function verify(command: readonly string[], archive: string) {
  const [program = "", ...words] = [...command, "verify", "--archive", archive, "--jobs", "2", "--json"];
  const run = spawnSync(program, words, {
    cwd: tmpdir(), // not where a deno.json of ours could say more
    encoding: "utf8",
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", NO_COLOR: "1" },
  });
  assert.equal(run.status, 0, run.stderr + run.stdout);
  return { answer: JSON.parse(run.stdout), stderr: run.stderr };
}

function runTask(script: string, options: readonly string[]): void {
  const [command, ...first] = denoCommand();
  const run = spawnSync(command, [...first, "run", "--allow-all", `tasks/${script}`, ...options], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(run.status, 0, run.stderr);
}

function denoOnPath(directory: string): readonly string[] {
  const [command, ...first] = denoCommand();
  if (first.length > 0) return [command, ...first];
  const bin = join(directory, "bin");
  fs.mkdirSync(bin);
  fs.symlinkSync(fs.realpathSync(command), join(bin, "deno"));
  return ["env", `PATH=${bin}:/usr/bin:/bin`];
}

describe("verify reads on threads", { timeout }, () => {
  const directory = temporaryDirectory();
  const archive = join(directory.path, "archive");
  before(() => makeArchive(archive));

  test("in the executable made with Bun", { timeout }, () => {
    using output = temporaryDirectory();
    const path = join(output.path, "walvault");
    runTask("compile_bun.ts", ["--output", path]);
    const { answer, stderr } = verify([path], archive);
    assert.equal(stderr, "");
    assert.deepEqual([answer.ok, answer.jobs, answer.segments], [true, 2, SEGMENTS]);
  });

  test("in the container image's script, under its permissions", { timeout }, () => {
    using output = temporaryDirectory();
    runTask("bundle.ts", ["--archive", archive, "--output", output.path]);
    const { answer, stderr } = verify([...denoOnPath(output.path), join(output.path, "walvault")], archive);
    assert.equal(stderr, "");
    assert.deepEqual([answer.ok, answer.jobs, answer.segments], [true, 2, SEGMENTS]);
  });

  test("and where the sandbox keeps its own source from it, without them", { timeout }, () => {
    const options = permissionOptions({ servers: ["127.0.0.1:1"], archive });
    const { answer, stderr } = verify(
      [...denoCommand(), "run", ...options, "--cached-only", join(ROOT, "cli.ts")],
      archive,
    );
    assert.match(stderr, /warn {2}one file at a time/);
    assert.deepEqual([answer.ok, answer.jobs, answer.segments], [true, 1, SEGMENTS]);
    directory[Symbol.dispose]();
  });
});
