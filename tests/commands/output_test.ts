import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const CHILD = fileURLToPath(new URL("output_child.ts", import.meta.url));
const timeout = 60_000;
const WHOLE = "ä".repeat(999_999) + "!\n";

interface Written {
  readonly fd: 1 | 2;
  readonly bytes: number;
  readonly afterMs?: number;
}

/** Runs a shell line in which `"$@"` is a process that writes; its exit code goes to the end of stderr. */
function inShell(line: string, { fd, bytes, afterMs = 0 }: Written) {
  const run = process.versions["bun"] === undefined ? ["run", "--allow-all", "--no-check"] : [];
  const words = [process.execPath, ...run, CHILD, String(fd), String(bytes), String(afterMs)];
  const { stdout, stderr } = spawnSync("sh", ["-c", line, "sh", ...words], {
    encoding: "utf8",
    maxBuffer: 1 << 26,
    env: { ...process.env, NO_COLOR: "1" },
  });
  return { stdout, stderr };
}

for (const fd of [1, 2] as const) {
  const redirect = fd === 2 ? "2>&1 >/dev/null" : "";

  test(`standardOutput(${fd}) writes all of a long text to a reader that is slow`, { timeout }, () => {
    const line = `"$@" ${redirect} | { sleep 0.5; dd bs=1000 2>/dev/null; }`;
    const { stdout } = inShell(line, { fd, bytes: 2_000_000 });
    assert.equal(stdout.length, WHOLE.length);
    assert.ok(stdout === WHOLE);
  });

  test(`standardOutput(${fd}) to a reader that went away is no error`, { timeout }, () => {
    const line = `{ "$@" ${redirect}; echo "exit $?" >&3; } 3>&2 | true`;
    assert.equal(inShell(line, { fd, bytes: 2_000_000, afterMs: 500 }).stderr, "exit 0\n");
  });

  test(`standardOutput(${fd}) to a reader that went away in the middle is no error`, { timeout }, () => {
    const line = `{ "$@" ${redirect}; echo "exit $?" >&3; } 3>&2 | head -c 100000 >/dev/null`;
    assert.equal(inShell(line, { fd, bytes: 2_000_000 }).stderr, "exit 0\n");
  });

  const nonBlocking = existsSync("/usr/bin/perl");
  test(`standardOutput(${fd}) to a pipe that is full and does not block ends, and garbles nothing`, {
    timeout,
    skip: !nonBlocking,
  }, () => {
    const handle = fd === 1 ? "STDOUT" : "STDERR";
    const perl =
      `/usr/bin/perl -MFcntl -e 'fcntl(${handle}, F_SETFL, O_NONBLOCK | fcntl(${handle}, F_GETFL, 0)); exec @ARGV'`;
    const line = `{ ${perl} "$@" ${redirect}; echo "exit $?" >&3; } 3>&2 | { sleep 2; cat; }`;
    const { stdout, stderr } = inShell(line, { fd, bytes: 2_000_000 });
    assert.equal(stderr, "exit 0\n");
    assert.ok(stdout.length > 10_000, `${stdout.length} characters came`);
    assert.ok(WHOLE.startsWith(stdout.replace(/\ufffd$/, "")), "what came is the text's beginning");
  });

  test(`standardOutput(${fd}) to a file writes all of it`, { timeout }, () => {
    const line = `file=$(mktemp); "$@" ${fd}>"$file"; cat "$file"; rm "$file"`;
    assert.ok(inShell(line, { fd, bytes: 2_000_000 }).stdout === WHOLE);
  });

  for (const target of ["/dev/null", "pipe", "closed"] as const) {
    test(`standardOutput(${fd}) to ${target} is no terminal, and no error`, { timeout }, () => {
      const where = { "/dev/null": `${fd}>/dev/null`, pipe: `${fd}>&1 | cat`, closed: `${fd}>&-` }[target];
      const { stdout } = inShell(`"$@" ${where}`, { fd, bytes: 0 });
      assert.equal(stdout, target === "pipe" ? "false" : "");
    });
  }
}

const isFullDevice = existsSync("/dev/full");

test("standardOutput(2) on a full disk does not end the program", { timeout, skip: !isFullDevice }, () => {
  assert.equal(inShell('"$@" 2>/dev/full; echo "exit $?"', { fd: 2, bytes: 100 }).stdout, "exit 0\n");
});

test(
  "standardOutput(1) on a full disk is an error: the answer is lost",
  { timeout, skip: !isFullDevice },
  () => {
    const { stderr } = inShell('"$@" >/dev/full; echo "exit $?" >&2', { fd: 1, bytes: 100 });
    assert.match(stderr, /ENOSPC|no space left/i);
    assert.match(stderr, /exit 1\n$/);
  },
);

const canMakeTerminal = existsSync("/usr/bin/script");

test("standardOutput(1) to a terminal says so", { timeout, skip: !canMakeTerminal }, () => {
  const { stdout } = inShell(`script -qec "$(printf "'%s' " "$@")" /dev/null`, { fd: 1, bytes: 0 });
  assert.equal(stdout.trim(), "true");
});
