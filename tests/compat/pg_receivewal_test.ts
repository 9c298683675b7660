import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { realProgram, runOurs, runReal, temporaryDirectory } from "./originals.ts";

const NAME = "pg_receivewal";
const skip = realProgram(NAME) === undefined;
const timeout = 60_000;
/** Port 1: nobody listens there. */
const NOBODY = ["-h", "127.0.0.1", "-p", "1"];

/** Command lines that end without a server; `DIR` is an empty directory. */
const COMMAND_LINES: readonly (readonly string[])[] = [
  [],
  ["-x"],
  ["-D"],
  ["--di"],
  ["--no"],
  ["--no-l=1"],
  ["--s"],
  ["--bogus", "-D", "DIR"],
  ["extra"],
  ["-D", "DIR", "extra", "-v", "more"],
  ["-D", "DIR", "--", "-v"],
  ["-D", "DIR", "-E", "zz"],
  ["-D", "DIR", "-E", "1"],
  ["-D", "DIR", "-E", "zz", "-x"],
  ["-D", "DIR", "-x", "-E", "zz"],
  ["-D", "DIR", "-s", "x"],
  ["-D", "DIR", "-s", "5x"],
  ["-D", "DIR", "-s", "-1"],
  ["-D", "DIR", "-s", "2147484"],
  ["-D", "DIR", "--create-slot"],
  ["-D", "DIR", "--drop-slot"],
  ["-D", "DIR", "-S", "x", "--drop-slot", "--create-slot"],
  ["-D", "DIR", "--synchronous", "--no-sync"],
  ["-S", "x"],
  ["-D", "DIR", "-Z", "foo"],
  ["-D", "DIR", "-Z", "gzip:10"],
  ["-D", "DIR", "-Z", "gzip:0"],
  ["-D", "DIR", "-Z", "lz4:13"],
  ["-D", "DIR", "-Z", "none:1"],
  ["-D", "DIR", "-Z", "gzip:x=1"],
  ["-D", "DIR", "-Z", "gzip:"],
  ["-D", "DIR", "-Z", "gzip:level"],
  ["-D", "DIR", "-Z", "gzip:level=a"],
  ["-D", "DIR", "-Z", "gzip:level=3,"],
  ["-D", "DIR", "-Z", "lz4:workers=2"],
  ["-D", "DIR", "-Z", "10"],
  ["-D", "DIR", "-Z", "5:6"],
  ["-D", "DIR/absent"],
  ["-D", "DIR/file"],
  ["-D", "DIR", "-V"],
  ["-D", "DIR", "--help"],
  ["-D", "DIR", ...NOBODY],
  ["-D", "DIR", ...NOBODY, "-E", "1/2/3", "-s", "0", "-Z", "-1"],
  ["-D", "DIR", ...NOBODY, "-Z", "", "-vvn"],
  ["-D", "DIR", "-h", "127.0.0.1,localhost", "-p", "1"],
  ["-D", "DIR", "-h", "DIR", "-p", "77"],
  ["-D", "DIR", "-d", "postgresql://127.0.0.1:1/x"],
  ["-D", "DIR", "-d", "host=/nowhere port=1", "-h", "127.0.0.1"],
  ["-D", "DIR", "-h", "nosuch.invalid"],
  ["-D", "DIR", ...NOBODY, "-U", "u", "-w"],
  ["-S", "x", "--create-slot", "--if-not-exists", ...NOBODY],
  ["-S", "x", "--drop-slot", ...NOBODY],
];

for (const words of COMMAND_LINES) {
  test(`${NAME} ${words.join(" ")} says what PostgreSQL's says`, { skip, timeout }, async () => {
    using temporary = temporaryDirectory();
    fs.writeFileSync(join(temporary.path, "file"), "");
    const given = words.map((word) => word.replace("DIR", temporary.path));
    const [real, ours] = [runReal(NAME, given), await runOurs(NAME, given)];
    assert.deepEqual(ours, real);
    assert.deepEqual(fs.readdirSync(temporary.path), ["file"]);
  });
}

test(`${NAME} tells its version and help as PostgreSQL's does`, { skip }, async () => {
  for (const word of ["--version", "-V"]) {
    const [real, ours] = [runReal(NAME, [word]), await runOurs(NAME, [word])];
    assert.deepEqual([ours.code, ours.stderr], [real.code, real.stderr]);
    assert.match(ours.stdout, /^pg_receivewal \(PostgreSQL\) [0-9]+\.[0-9]+ \(.+\)\n$/);
  }
  for (const words of [["--help"], ["-?", "more"]]) {
    const [real, ours] = [runReal(NAME, words), await runOurs(NAME, words)];
    assert.deepEqual([ours.code, ours.stderr], [real.code, real.stderr]);
    // All but the address for reports of defects.
    const upToAddress = (text: string) => text.slice(0, text.lastIndexOf("\n\n"));
    assert.equal(upToAddress(ours.stdout), upToAddress(real.stdout));
  }
});

test(`${NAME} takes zstd, which PostgreSQL's does not do yet`, async () => {
  for (const method of ["zstd", "zstd:5", "zstd:level=-3,long"]) {
    using temporary = temporaryDirectory();
    const { code, stderr } = await runOurs(NAME, ["-D", temporary.path, ...NOBODY, "-Z", method]);
    assert.equal(code, 1);
    assert.match(stderr, /Connection refused/);
  }
  const { stderr } = await runOurs(NAME, ["-D", "/", ...NOBODY, "-Z", "zstd:23"]);
  assert.match(stderr, /"zstd" expects a compression level between -131072 and 22 \(default at 3\)\n$/);
});

test(`${NAME} shows no password of a connection string that is wrong`, async () => {
  using temporary = temporaryDirectory();
  for (
    const conninfo of [
      "host=127.0.0.1 password=s3cr3t bogus=1",
      "password='s3cr3t",
      "postgresql://u:s3cr3t@[h/x",
    ]
  ) {
    const { code, stdout, stderr } = await runOurs(NAME, ["-D", temporary.path, "-d", conninfo]);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /^pg_receivewal: error: Cannot parse connection /);
    assert.ok(!stderr.includes("s3cr3t"), stderr);
  }
});
