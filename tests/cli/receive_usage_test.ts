import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { lockFile } from "../../lib/archive/flock.ts";
import { receiveCommand } from "../../lib/commands/receive_options.ts";
import { VERSION } from "../../lib/commands/version.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { denoCommand } from "../../tasks/install_locked.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;
const SECRET = "s3cr3t-Pa55";
/** Port 1: nobody listens there. */
const CONNINFO = `host=127.0.0.1 port=1 user=u password=${SECRET} sslmode=disable`;
const NOBODY = 65_534;

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function walvault(
  words: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly uid?: number } = {},
): Outcome {
  const [command, ...first] = denoCommand();
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("PG") && !name.startsWith("WALVAULT_A")),
  );
  const { status, stdout, stderr } = spawnSync(
    command,
    [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), ...words],
    {
      cwd: ROOT,
      encoding: "utf8",
      env: { ...inherited, NO_COLOR: "1", ...options.env },
      ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
    },
  );
  return { code: status, stdout, stderr };
}

function temporaryDirectory() {
  const path = mkdtempSync(join(tmpdir(), "wv-usage-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

/** What was typed, the message, and the line that helps. */
const USAGE_ERRORS: readonly (readonly [words: readonly string[], message: RegExp, hint: RegExp])[] = [
  [["recieve"], /^error: unknown command 'recieve'\n\(Did you mean receive\?\)$/m, /"walvault --help"/],
  [["--bogus"], /^error: unknown option '--bogus'$/m, /"walvault --help"/],
  [
    ["receive", "--archiv", "x"],
    /^error: unknown option '--archiv'\n\(Did you mean --archive\?\)$/m,
    /receive --help/,
  ],
  [["receive", "extra"], /^error: too many arguments for 'receive'/m, /receive --help/],
  [["receive", "-d"], /'-d, --archive <directory>' argument missing/, /receive --help/],
  [["receive", "-S", "Bad-Name"], /--slot.*want 1 to 63 lower-case .*got "Bad-Name"/, /receive --help/],
  [["receive", "-E", "0x10"], /--endpos.*want an LSN such as 16\/B374D848, got "0x10"/, /receive --help/],
  [
    ["receive", "-s", "0"],
    /--status-interval.*want seconds above 0 and at most 86400, got "0"/,
    /receive --help/,
  ],
  [["receive", "--compress", "xz"], /--compress.*want zstd, gzip, lz4 or none/, /receive --help/],
  [["receive", "--compress", "gzip:10"], /--compress.*gzip has no level 10, want 1 to 9/, /receive --help/],
  [["receive", "--log-format", "xml"], /--log-format.*Allowed choices are text, json/, /receive --help/],
  [
    ["receive", "-v", "-q"],
    /^walvault: --verbose and --quiet exclude each other$/m,
    /^hint: Give one of them$/m,
  ],
  [["receive", "-c", CONNINFO], /^walvault: No archive is given$/m, /--archive, or in WALVAULT_ARCHIVE$/m],
  [
    ["receive", "-c", "x", "--halt-lag=1GB"],
    /^walvault: --halt-lag needs a slot$/m,
    /^hint: Name it with --slot$/m,
  ],
  [
    ["receive", "-c", "x", "--halt-after=5"],
    /^walvault: --halt-after needs a slot$/m,
    /^hint: Name it with --slot$/m,
  ],
  [
    ["receive", "-c", "x", "-S", "s", "--halt-action=drop-slot"],
    /^walvault: --halt-action drop-slot needs a limit$/m,
    /^hint: Give --halt-lag, --halt-after, or both$/m,
  ],
  [["receive", "--create-slot"], /^walvault: --create-slot needs a slot$/m, /^hint: Name it with --slot$/m],
  [["receive", "--drop-slot"], /^walvault: --drop-slot needs a slot$/m, /^hint: Name it with --slot$/m],
  [
    ["receive", "-S", "x", "--create-slot", "--drop-slot"],
    /^walvault: --create-slot and --drop-slot exclude each other$/m,
    /^hint: Give one of them$/m,
  ],
  [["receive", "-c", "nonsense"], /^walvault: Cannot parse connection string: /m, /^hint: .*host=/m],
  [["receive", "-c", "hots=db1"], /^walvault: .*/m, /^hint: .*host/m],
];

for (const [words, message, hint] of USAGE_ERRORS) {
  test(`walvault ${words.join(" ").replace(SECRET, "…")} is a usage error with its hint`, { timeout }, () => {
    const { code, stdout, stderr } = walvault(words);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "", "stdout is for answers");
    assert.match(stderr, message);
    assert.match(stderr, hint);
    assert.match(stderr, /^hint: [^\n]+\n$/m, "one line of hint");
    assert.doesNotMatch(stderr, /\bat .*\.ts:\d+/, "no stack trace");
  });
}

for (const value of ["-1", "1e3", "", "x", "86401", "NaN"]) {
  test(`receive refuses ${JSON.stringify(value)} seconds`, async () => {
    for (const flag of ["--status-interval", "--receive-timeout", "--stall-timeout"]) {
      const command = quietCommand();
      await assert.rejects(
        command.parseAsync([`${flag}=${value}`], { from: "user" }),
        /want seconds above 0/,
      );
    }
  });
}

function quietCommand(run: Parameters<typeof receiveCommand>[0] = () => Promise.resolve()) {
  return receiveCommand(run).exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
}

test("receive takes --compress with a format, a level, or none", async () => {
  for (
    const [word, want] of [
      ["none", "none"],
      ["zstd", { format: "zstd", level: 1 }],
      ["gzip:9", { format: "gzip", level: 9 }],
    ] as const
  ) {
    let seen: unknown;
    await quietCommand((options) => {
      seen = options.compress;
      return Promise.resolve();
    }).parseAsync([`--compress=${word}`], { from: "user" });
    assert.deepEqual(seen, want);
  }
});

test("receive's options have the documented defaults", async () => {
  let seen: unknown;
  await quietCommand((options) => {
    seen = { ...options };
    return Promise.resolve();
  }).parseAsync([], { from: "user" });
  assert.deepEqual(seen, {
    loop: true,
    gaps: true,
    statusInterval: 10_000,
    receiveTimeout: 60_000,
    stallTimeout: 15_000,
    minFree: { kind: "default" },
    haltAction: "warn",
    hardLinks: true,
    index: true,
    logFormat: "text",
  });
});

test("receive's options are all parsed", async () => {
  let seen: Record<string, unknown> = {};
  const words =
    "-c x -d /a -S s --create-slot -E 1/0 -n --no-gaps -s 0.5 --receive-timeout 1 --stall-timeout 2 --no-hard-links " +
    "--min-free 10% --halt-lag 2GB --halt-after 60 --halt-action drop-slot --no-index --json --log-format json -v";
  await quietCommand((options) => {
    seen = { ...options };
    return Promise.resolve();
  }).parseAsync(words.split(" "), { from: "user" });
  assert.deepEqual(seen, {
    connection: "x",
    archive: "/a",
    slot: "s",
    createSlot: true,
    endpos: 1n << 32n,
    loop: false,
    gaps: false,
    statusInterval: 500,
    receiveTimeout: 1000,
    stallTimeout: 2000,
    minFree: { kind: "percent", percent: 10 },
    haltLag: 2n << 30n,
    haltAfter: 60_000,
    haltAction: "drop-slot",
    hardLinks: false,
    index: false,
    json: true,
    logFormat: "json",
    verbose: true,
  });
});

test("walvault --version and --help answer on stdout", { timeout }, () => {
  const version = walvault(["--version"]);
  assert.deepEqual(version, { code: 0, stdout: `walvault ${VERSION}\n`, stderr: "" });
  const help = walvault(["--help"]);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /receive \[options\] +stream WAL/);
  const nothing = walvault([]);
  assert.equal(nothing.code, 2);
  assert.equal(nothing.stderr, help.stdout);
});

test("walvault receive --help lists every option, examples and exit codes", { timeout }, () => {
  const { code, stdout, stderr } = walvault(["receive", "--help"]);
  assert.equal(code, 0);
  assert.equal(stderr, "");
  const { options } = receiveCommand(() => Promise.resolve());
  assert.ok(options.length >= 15);
  for (const { flags, description } of options) {
    assert.ok(stdout.includes(flags), flags);
    assert.ok(stdout.replaceAll(/\s+/g, " ").includes(description), description);
  }
  for (
    const part of [
      "Examples:",
      "--create-slot",
      "synchronous_standby_names",
      "Exit codes:",
      "WALVAULT_ARCHIVE",
    ]
  ) {
    assert.ok(stdout.includes(part), part);
  }
  assert.ok(stdout.split("\n").every((line) => line.length <= 120), "lines fit a wide terminal");
});

interface Broken {
  readonly name: string;
  /** Makes it below a fresh directory; answers the archive's path. */
  readonly prepare: (directory: string) => string;
  readonly message: RegExp;
  readonly env?: Readonly<Record<string, string>>;
}

const BROKEN_ARCHIVES: readonly Broken[] = [
  {
    name: "that is missing",
    prepare: (directory) => join(directory, "none"),
    message: /none": there is no such directory; make it with: mkdir -m 700 "/,
  },
  {
    name: "that is a file",
    prepare: (directory) => made(join(directory, "file"), (path) => writeFileSync(path, "")),
    message: /file": it is a file, want a directory$/m,
  },
  {
    name: "that holds other files",
    prepare: (directory) => {
      for (const name of ["b", "a", "c", "d"]) writeFileSync(join(directory, name), "");
      return directory;
    },
    message: /it has no archive\.json but 4 other entries \("a", "b", "c"\); use an empty directory$/m,
  },
  {
    name: "whose archive.json is damaged",
    prepare: (directory) => {
      const bytes = encodeIdentity({ systemIdentifier: 7n, segmentSize: segmentSize(1 << 24) });
      writeFileSync(join(directory, "archive.json"), new TextDecoder().decode(bytes).replace('"7"', '"8"'));
      return directory;
    },
    message: /Cannot read archive\.json: checksum .*, want .*changed by hand or damaged$/m,
  },
  {
    name: "whose archive.json is cut",
    prepare: (directory) => {
      writeFileSync(join(directory, "archive.json"), '{"walvault": "arch');
      return directory;
    },
    message: /Cannot read archive\.json: it is no JSON text/,
  },
  {
    name: "whose archive.json is a symbolic link",
    prepare: (directory) => {
      symlinkSync("/etc/hostname", join(directory, "archive.json"));
      return directory;
    },
    message: /archive\.json/,
  },
  {
    name: "whose inprogress is a file",
    prepare: (directory) => {
      writeFileSync(
        join(directory, "archive.json"),
        encodeIdentity({ systemIdentifier: 7n, segmentSize: segmentSize(1 << 24) }),
      );
      writeFileSync(join(directory, "inprogress"), "");
      return directory;
    },
    message: /"inprogress" in it is a file, want a directory$/m,
  },
];

function made(path: string, make: (path: string) => void): string {
  make(path);
  return path;
}

for (const { name, prepare, message } of BROKEN_ARCHIVES) {
  test(`walvault receive refuses an archive ${name}, and changes nothing`, { timeout }, () => {
    using directory = temporaryDirectory();
    const archive = prepare(directory.path);
    const before = readdirSync(directory.path);
    const { code, stdout, stderr } = walvault(["receive", "-c", CONNINFO, "-d", archive]);
    assert.equal(code, 3, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, /^walvault: Cannot [^\n]+\n(hint: [^\n]+\n)?$/);
    assert.match(stderr, message);
    assert.ok(!stderr.includes(SECRET));
    assert.deepEqual(readdirSync(directory.path), before);
  });
}

test("walvault receive refuses an archive that another receiver has", { timeout }, () => {
  using directory = temporaryDirectory();
  const lock = lockFile(join(directory.path, "lock"), 0o600);
  assert.ok(lock !== undefined);
  try {
    const { code, stderr } = walvault(["receive", "-c", CONNINFO, "-d", directory.path]);
    assert.equal(code, 3);
    assert.match(stderr, /another walvault receives into it; stop that one first/);
  } finally {
    lock.release();
  }
});

/** Whether a process of another user can run here at all. */
const asNobody = process.geteuid?.() === 0 && walvault(["--version"], nobody(tmpdir())).code === 0;

function nobody(home: string) {
  return { uid: NOBODY, env: { HOME: home, DENO_DIR: join(home, `wv-deno-${process.pid}`) } };
}

test("walvault receive refuses an archive where it may not write", { timeout, skip: !asNobody }, () => {
  using directory = temporaryDirectory();
  chmodSync(directory.path, 0o755);
  const unwritable = join(directory.path, "unwritable");
  const foreign = join(directory.path, "foreign");
  for (const path of [unwritable, foreign]) mkdirSync(path);
  chownSync(unwritable, NOBODY, NOBODY);
  chmodSync(unwritable, 0o500);
  const first = walvault(["receive", "-c", CONNINFO, "-d", unwritable], nobody(tmpdir()));
  assert.equal(first.code, 3);
  assert.match(
    first.stderr,
    /^walvault: Cannot write to the archive ".*unwritable"; .*chmod u\+rwx.*: EACCES: /,
  );
  const second = walvault(["receive", "-c", CONNINFO, "-d", foreign], nobody(tmpdir()));
  assert.equal(second.code, 3);
  assert.match(
    second.stderr,
    /it belongs to the user with id 0, this process runs as 65534; run walvault as its owner/,
  );
  rmSync(nobody(tmpdir()).env.DENO_DIR, { recursive: true, force: true });
});

test("walvault receive --no-loop exits 3 when no server listens; WALVAULT_ARCHIVE stands in for --archive", {
  timeout,
}, () => {
  using directory = temporaryDirectory();
  const { code, stdout, stderr } = walvault(["receive", "-c", CONNINFO, "--no-loop"], {
    env: { WALVAULT_ARCHIVE: directory.path },
  });
  assert.equal(code, 3, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, /^walvault: Cannot connect to 127\.0\.0\.1:1: .*ECONNREFUSED/);
  assert.ok(!readdirSync(directory.path).includes("archive.json"), "no server, so no identity");
});

test(
  "walvault receive --log-format json writes nothing but JSON lines, the last error included",
  { timeout },
  () => {
    using directory = temporaryDirectory();
    const words = [
      "receive",
      "-c",
      CONNINFO,
      "-d",
      directory.path,
      "--no-loop",
      "--log-format",
      "json",
      "-v",
    ];
    const { code, stderr } = walvault(words);
    assert.equal(code, 3);
    const lines = stderr.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
    const last = lines.at(-1);
    assert.equal(last?.["level"], "error");
    assert.equal(last?.["event"], "failed");
    assert.match(String(last?.["error"]), /^Cannot connect to 127\.0\.0\.1:1/);
    for (const line of lines) assert.match(String(line["time"]), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  },
);

/** A connection string with a password where none belongs, or where it does not help. */
const LEAKS: readonly (readonly string[])[] = [
  [`postgres://u:${SECRET}@127.0.0.1:1/db`],
  ["receive", `postgres://u:${SECRET}@127.0.0.1:1/db`],
  ["receive", `password=${SECRET}`],
  ["receive", `--conection=host=127.0.0.1 password=${SECRET}`],
  ["receive", `--conection=host=127.0.0.1 password='${SECRET} and more'`],
  ["receive", "--slot", `password=${SECRET}`],
  ["receive", "--endpos", `postgresql://u:${SECRET}@h/`],
  ["receive", "--archive", `postgres://u:${SECRET}@127.0.0.1:1/db`],
  ["receive", "--archive", `host=127.0.0.1 password=${SECRET} user=u`],
  ["receive", "-c", `host=127.0.0.1 password=${SECRET} bogus=1`],
  ["receive", "-c", `host=127.0.0.1 password='${SECRET}`],
  ["receive", "-c", `host=127.0.0.1 pasword=${SECRET}`],
  ["receive", "-c", `postgres://u:${SECRET}@127.0.0.1:x/db`],
  [
    "receive",
    "-c",
    `host=127.0.0.1 port=1 sslmode=disable user=u password=${SECRET}`,
    "--drop-slot",
    "-S",
    "s",
  ],
];

for (const words of LEAKS) {
  test(`walvault ${words.join(" ").replaceAll(SECRET, "…")} shows no password`, { timeout }, () => {
    const { code, stdout, stderr } = walvault([...words], { env: { PGPASSWORD: `${SECRET}-too` } });
    assert.ok(code === 2 || code === 3, stderr);
    assert.ok(stderr.length > 0);
    assert.ok(!(stdout + stderr).includes(SECRET.slice(0, 6)), stdout + stderr);
    assert.ok(!(stdout + stderr).includes("and more"), stdout + stderr);
  });
}
