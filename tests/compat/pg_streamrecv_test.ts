import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runOurs, temporaryDirectory } from "./originals.ts";

const NAME = "pg_streamrecv";
const NOBODY = "host=127.0.0.1 port=1 user=u password=s3cr3t sslmode=disable";

/** As the source has it: whatever is wrong with the command line, its usage on stdout and exit code 1. */
for (
  const words of [[], ["-c", NOBODY], ["-d", "DIR"], ["-c", NOBODY, "-d", "DIR", "more"], ["-x"], ["-c"], [
    "--bogus",
  ]]
) {
  test(`${NAME} ${words.join(" ").replace(NOBODY, "…")} shows its usage and exits 1`, async () => {
    using temporary = temporaryDirectory();
    const { code, stdout, stderr } = await runOurs(
      NAME,
      words.map((word) => word.replace("DIR", temporary.path)),
    );
    assert.equal(code, 1);
    assert.match(
      stdout,
      /^Usage:\n\nStreaming mode:\n pg_streamrecv -c <connectionstring> -d <directory> \[-v\]\n/,
    );
    if (words[0] === "-x") assert.equal(stderr, "pg_streamrecv: invalid option -- 'x'\n");
    assert.deepEqual(fs.readdirSync(temporary.path), []);
  });
}

test(`${NAME} wants a directory that is there`, async () => {
  using temporary = temporaryDirectory();
  const absent = join(temporary.path, "absent");
  const outcome = await runOurs(NAME, ["-c", NOBODY, "-d", absent]);
  assert.deepEqual(outcome, { code: 1, stdout: "", stderr: `Base directory ${absent} does not exist\n` });
});

test(`${NAME} takes no base backup, and says what does`, async () => {
  const { code, stderr } = await runOurs(NAME, ["-c", NOBODY, "-b", "."]);
  assert.equal(code, 1);
  assert.match(stderr, /^-b is for base backups, .*use pg_basebackup\n$/);
});

test(`${NAME} exits 1 when no server listens, and shows no password`, async () => {
  using temporary = temporaryDirectory();
  const { code, stdout, stderr } = await runOurs(NAME, ["-v", "-c", NOBODY, "-v", "-d", temporary.path]);
  assert.equal(code, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /pg_streamrecv: Cannot connect to 127\.0\.0\.1:1: .*ECONNREFUSED/);
  assert.ok(!stderr.includes("s3cr3t"));
});
