import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { lockFile } from "../../lib/archive/flock.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

/** A process of the same runtime that locks, says whether it could, and keeps the lock until it is killed. */
function holder(path: string) {
  const module = new URL("../../lib/archive/flock.ts", import.meta.url).href;
  const source = `import { lockFile } from ${JSON.stringify(module)};
    const lock = lockFile(${JSON.stringify(path)}, 0o600);
    process.stdout.write(lock === undefined ? "refused\\n" : "locked\\n");
    setInterval(() => lock, 1000);`;
  const isDeno = "Deno" in globalThis;
  const code = `import process from "node:process";\n${source}`;
  const child = isDeno
    ? spawn(process.execPath, [
      "run",
      "--allow-all",
      "--no-check",
      `data:text/typescript,${encodeURIComponent(code)}`,
    ])
    : spawn(process.execPath, ["-e", code]);
  const said = once(child.stdout, "data").then(([text]) => String(text).trim());
  const end = async () => {
    const closed = once(child, "close");
    child.kill("SIGKILL");
    await closed;
  };
  return { said, end };
}

test("lockFile() locks out others until it is released", () =>
  inTemporaryDirectory((directory) => {
    const path = join(directory, "lock");
    const lock = lockFile(path, 0o600);
    assert.notEqual(lock, undefined);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.equal(lockFile(path, 0o600), undefined);
    lock!.release();
    const again = lockFile(path, 0o600);
    assert.notEqual(again, undefined);
    again!.release();
  }));

test("lockFile() locks out another process, and a killed one leaves no lock behind", () =>
  inTemporaryDirectory(async (directory) => {
    const path = join(directory, "lock");
    const other = holder(path);
    try {
      assert.equal(await other.said, "locked");
      assert.equal(lockFile(path, 0o600), undefined);
    } finally {
      await other.end();
    }
    const lock = lockFile(path, 0o600);
    assert.notEqual(lock, undefined);
    const late = holder(path);
    try {
      assert.equal(await late.said, "refused");
    } finally {
      await late.end();
    }
    lock!.release();
  }));

test("lockFile() follows no symbolic link", () =>
  inTemporaryDirectory((directory) => {
    const path = join(directory, "lock");
    symlinkSync(join(directory, "elsewhere"), path);
    assert.throws(() => lockFile(path, 0o600), (error) => (error as { code?: string }).code === "ELOOP");
  }));
