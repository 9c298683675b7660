import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { bunPath } from "../../tasks/bun.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { PushPlace, SEGMENT } from "./push_place.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const CLI = join(ROOT, "cli.ts");
const timeout = 240_000;
const TIMEOUT_MS = 700;
/** A runtime starts in this time, also on a machine that does other things. */
const START_MS = 10_000;

/** What does not answer, and how much push has done when it asks there. */
const HANGING: readonly (readonly [path: string, leaves: RegExp])[] = [
  ["archive.json", /^$/],
  [`${SEGMENT}.zst`, /^$/],
  // By then its copy is written and synced: the next push of the file, or a receiver, removes that.
  [`inprogress/${SEGMENT}`, new RegExp(`^${SEGMENT}\\.push-\\w+$`)],
];

/** Holds a write lease on a file: to open it waits until that is given back, which it is not, for `lease-break-time` at most. */
const HOLD_LEASE = `use Fcntl; $SIG{IO} = "IGNORE"; open(my $file, "+<", $ARGV[0]) or die $!;
fcntl($file, 1024, F_WRLCK) or die $!; $| = 1; print "held"; sleep 300;`;

async function holdLease(path: string): Promise<ChildProcess> {
  const holder = spawn("perl", ["-e", HOLD_LEASE, path], { stdio: ["ignore", "pipe", "inherit"] });
  const [told] = await once(holder.stdout, "data");
  assert.equal(String(told), "held");
  return holder;
}

describe("walvault push gives up in time when the archive's disk does not answer", { timeout }, () => {
  const directory = mkdtempSync(join(tmpdir(), "wv-hang-"));
  const executable = join(directory, "walvault");
  before(() => {
    const [command, ...first] = denoCommand();
    const words = [...first, "run", "--allow-all", "tasks/compile_bun.ts", "--output", executable];
    const built = spawnSync(command, words, { cwd: ROOT, encoding: "utf8" });
    assert.equal(built.status, 0, built.stderr);
  });
  after(() => rmSync(directory, { recursive: true }));

  const programs: readonly (readonly [name: string, command: () => readonly string[]])[] = [
    ["Deno", () => [...denoCommand(), "run", "--allow-all", "--cached-only", CLI]],
    ["Bun", () => [bunPath(), "run", CLI]],
    ["the executable made with Bun", () => [executable]],
  ];
  for (const [name, command] of programs) {
    for (const [path, leaves] of HANGING) {
      test(`${name}, at ${path.replace(SEGMENT, "SEGMENT")}`, { timeout }, async () => {
        using place = new PushPlace();
        const hanging = join(place.archive, path);
        if (!existsSync(hanging)) writeFileSync(hanging, "", { mode: 0o600 });
        const holder = await holdLease(hanging);
        const [program = "", ...words] = command();
        const options = [
          "push",
          "-d",
          "archive",
          "--timeout",
          String(TIMEOUT_MS / 1000),
          `pg_wal/${SEGMENT}`,
        ];
        const { status, stdout, stderr } = spawnSync(program, [...words, ...options], {
          cwd: place.path,
          encoding: "utf8",
          env: { ...process.env, NO_COLOR: "1" },
          timeout: TIMEOUT_MS + START_MS,
          killSignal: "SIGKILL",
        });
        const want = `walvault: Cannot archive ${SEGMENT} in 0.7 s: the disk of "archive" does not answer\n`;
        assert.deepEqual({ status, stdout, stderr }, { status: 1, stdout: "", stderr: want });
        assert.equal(existsSync(join(place.archive, SEGMENT)), false);
        const left = readdirSync(join(place.archive, "inprogress")).filter((each) => each !== SEGMENT);
        assert.match(left.join(" "), leaves);
        holder.kill("SIGKILL");
      });
    }
  }
});
