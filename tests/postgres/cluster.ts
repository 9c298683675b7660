/** Real PostgreSQL servers for tests, the demo and benchmarks: made, broken and cleaned up by the process that uses them. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import * as fs from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import postgres from "postgres";
import { crc32c } from "../../lib/wal/crc32c.ts";
import { findServerPrograms, serverAccount, type ServerPrograms, TEST_MAJOR } from "./servers.ts";

/** Server settings, as in postgresql.conf, without quotes. */
export type Settings = Readonly<Record<string, string>>;

/** How a server ends: `smart` waits for clients, `fast` ends them, `immediate` leaves a crash to be recovered. */
export type StopMode = "smart" | "fast" | "immediate";

/** What a cluster is made of; everything has a default. */
export interface ClusterOptions {
  /** 13 to 18; `TEST_MAJOR` by default. */
  readonly major?: number;
  /** Bytes per WAL segment: a power of two from 1 MiB to 1 GiB, 16 MiB by default. */
  readonly segmentBytes?: number;
  /** Over the harness's own, which turn `fsync` off: no test cuts the power of the machine. */
  readonly settings?: Settings;
  /** Lines of pg_hba.conf; by default everybody on this machine is trusted. The harness itself always is. */
  readonly hba?: readonly string[];
  /** More options for initdb. */
  readonly initdb?: readonly string[];
  /** Where to make the cluster's own directory; the system's temporary directory by default. */
  readonly parentDirectory?: string;
  /** Start from a copy that `Cluster.backup()` made, not from initdb. */
  readonly from?: string;
  /** With `from`: the file that says how to recover. Without it the copy is recovered as after a crash. */
  readonly signal?: "standby.signal" | "recovery.signal";
  /** How long a start may take; 60 s by default. */
  readonly startTimeoutMs?: number;
}

/** A copy of a running cluster's data directory, as `pg_basebackup` would leave it. */
export interface BackupCopy {
  readonly directory: string;
  /** Text, as PostgreSQL writes it: recovery begins here. */
  readonly startLsn: string;
  /** Recovery must reach this. */
  readonly endLsn: string;
}

const STOP_TIMEOUT_MS = 60_000;
const GONE_TIMEOUT_MS = 20_000;
const POLL_MS = 20;
const SUPERUSER = "postgres";
/** The harness's own connections come from here, whatever pg_hba.conf says about everybody else. */
const SUPERUSER_ADDRESS = "127.0.0.2";

/** Makes a cluster and starts it. Free it with `await using`, or `destroy()`. */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const programs = findServerPrograms(options.major ?? TEST_MAJOR);
  const parent = fs.realpathSync(options.parentDirectory ?? tmpdir());
  const directory = fs.mkdtempSync(join(parent, "wv-"));
  const cluster = new Cluster(programs, directory, options);
  try {
    await cluster.make();
    await cluster.start();
  } catch (error) {
    await cluster.destroy();
    throw error;
  }
  return cluster;
}

/** One server and its data directory. Its processes and files are this object's, and go with it. */
export class Cluster {
  readonly host = "127.0.0.1";
  readonly superuser: string = SUPERUSER;
  readonly programs: ServerPrograms;
  /** Holds everything of this cluster; removed by `destroy()`. */
  readonly directory: string;
  readonly dataDirectory: string;
  readonly socketDirectory: string;
  readonly logPath: string;
  /** Stays the same over restarts. */
  port = 0;
  /** More of the server's environment, from its next start on. */
  environment: Readonly<Record<string, string>> = {};

  readonly #options: ClusterOptions;
  #settings: Settings;
  #server: ChildProcess | undefined;
  #serverExit: Promise<unknown> = Promise.resolve();
  #watchdog: ChildProcess | undefined;
  /** The System V segment of the server last started: a killed server leaves it, and it outlives processes and files. */
  #sharedMemory: string | undefined;

  /** Use `startCluster()`. */
  constructor(programs: ServerPrograms, directory: string, options: ClusterOptions) {
    this.programs = programs;
    this.directory = directory;
    this.dataDirectory = join(directory, "data");
    this.socketDirectory = join(directory, "s"); // short: a socket's path has at most 107 bytes
    this.logPath = join(directory, "server.log");
    this.#options = options;
    this.#settings = options.settings ?? {};
  }

  get major(): number {
    return this.programs.major;
  }

  /** The postmaster, while it runs. */
  get pid(): number | undefined {
    return this.#server?.pid;
  }

  /** Fills the data directory. Called once, by `startCluster()`. */
  async make(): Promise<void> {
    this.#watchdog = startWatchdog(this.directory, this.dataDirectory);
    fs.chmodSync(this.directory, 0o755);
    fs.mkdirSync(this.socketDirectory);
    fs.writeFileSync(this.logPath, "");
    for (const path of [this.directory, this.socketDirectory, this.logPath]) giveToServer(path);

    const { from, signal, hba } = this.#options;
    if (from === undefined) {
      this.#initdb();
    } else {
      copyTree({ source: from, target: this.dataDirectory, skip: () => false });
    }
    if (signal !== undefined) this.writeDataFile(signal, "");
    if (from === undefined || hba !== undefined) this.setHba(hba ?? TRUST_THIS_MACHINE);
    this.port = await freePort();
  }

  #initdb(): void {
    const { segmentBytes = 16 * 1024 * 1024, initdb = [] } = this.#options;
    const shared = process.env["WALVAULT_TEST_BUILD"];
    const made = { programs: this.programs, segmentBytes };
    // Its permissions are those that a copy gets.
    if (shared === undefined || initdb.length > 0) {
      runInitdb(made, this.dataDirectory, initdb);
    } else {
      const source = madeOnce(shared, made);
      copyTree({ source, target: this.dataDirectory, skip: () => false });
      giveIdentifier(this.dataDirectory);
    }
    const main = join(this.dataDirectory, "postgresql.conf");
    fs.appendFileSync(main, "\ninclude 'harness.conf'\n");
  }

  /** Starts the server and waits until it takes connections (a standby: until it is consistent). */
  async start(): Promise<void> {
    if (this.#server !== undefined) throw new Error("Cannot start the server: it is running");
    for (let attempt = 1;; attempt++) {
      this.#writeSettings();
      const loggedBefore = fs.statSync(this.logPath).size;
      try {
        await this.#startOnce();
        return;
      } catch (error) {
        await this.kill();
        const logged = fs.readFileSync(this.logPath, "utf8").slice(loggedBefore);
        // Between freePort() and here another process took it.
        const portTaken = logged.includes("Address already in use");
        if (!portTaken || attempt === 5) {
          throw new Error(`${(error as Error).message}\n${logged}`, { cause: error });
        }
        this.port = await freePort();
      }
    }
  }

  async #startOnce(): Promise<void> {
    const log = fs.openSync(this.logPath, "a");
    const server = spawn(join(this.programs.binDirectory, "postgres"), ["-D", this.dataDirectory], {
      ...serverAccount(),
      cwd: this.directory,
      env: { ...serverEnvironment(this.directory), ...this.environment },
      stdio: ["ignore", log, log],
      detached: true, // Ctrl-C is for us; the watchdog ends the server when we are gone
    });
    fs.closeSync(log);
    this.#server = server;
    let problem: string | undefined;
    this.#serverExit = new Promise<void>((resolve) => {
      server.once("error", (error) => {
        problem = error.message;
        resolve();
      });
      server.once("exit", (code, signal) => {
        problem = `it ended with ${code ?? signal}`;
        if (this.#server === server) this.#server = undefined;
        resolve();
      });
    });
    server.unref();

    const deadline = Date.now() + (this.#options.startTimeoutMs ?? 60_000);
    while (!["ready", "standby"].includes(this.#postmasterFile()[7]?.trim() ?? "")) {
      if (problem !== undefined) throw new Error(`Cannot start the server: ${problem}`);
      if (Date.now() > deadline) throw new Error("Cannot start the server: it is not ready in time");
      await sleep(POLL_MS);
    }
    this.#sharedMemory = this.#postmasterFile()[6]?.trim().split(/\s+/)[1];
  }

  /** Ends the server and waits for it. */
  async stop(mode: StopMode = "fast"): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    server.kill(({ smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const)[mode]);
    await this.#ended(server, STOP_TIMEOUT_MS);
  }

  /** The crash: SIGKILL for the postmaster and all its children at once; returns when none is left. */
  async kill(): Promise<void> {
    const server = this.#server;
    if (server?.pid === undefined) return;
    const pids = [server.pid, ...descendants(server.pid)];
    for (const pid of pids) signalProcess(pid, "SIGKILL");
    await this.#ended(server, GONE_TIMEOUT_MS);
    const deadline = Date.now() + GONE_TIMEOUT_MS;
    while (pids.some(isAlive)) {
      if (Date.now() > deadline) {
        throw new Error(`Cannot kill the server: one of ${pids.join(", ")} is still there`);
      }
      await sleep(POLL_MS);
    }
  }

  async restart(mode: StopMode = "fast"): Promise<void> {
    await this.stop(mode);
    await this.start();
  }

  /** Freezes the postmaster and its children, or lets them go on: a server that is there and does not answer. */
  suspend(): void {
    if (this.pid !== undefined) {
      for (const pid of [this.pid, ...descendants(this.pid)]) signalProcess(pid, "SIGSTOP");
    }
  }

  resume(): void {
    if (this.pid !== undefined) {
      for (const pid of [this.pid, ...descendants(this.pid)]) signalProcess(pid, "SIGCONT");
    }
  }

  async #ended(server: ChildProcess, timeoutMs: number): Promise<void> {
    // Not by server.exitCode or signalCode: Deno 2.9 sets the latter when the signal is sent.
    server.ref();
    const late = new AbortController();
    const timeout = sleep(timeoutMs, "late", { signal: late.signal }).catch(() => "in time");
    const result = await Promise.race([this.#serverExit, timeout]);
    late.abort();
    if (result === "late") throw new Error(`Cannot stop the server within ${timeoutMs} ms`);
    this.#server = undefined;
  }

  /** Changes settings for good; those that need no restart count at once. */
  async configure(settings: Settings): Promise<void> {
    this.#settings = { ...this.#settings, ...settings };
    this.#writeSettings();
    await this.reload();
  }

  async reload(): Promise<void> {
    await this.sql("SELECT pg_reload_conf()");
    await sleep(100); // the postmaster tells its children without waiting for them
  }

  #writeSettings(): void {
    const settings: Settings = {
      port: String(this.port),
      listen_addresses: this.host,
      unix_socket_directories: this.socketDirectory,
      wal_level: "replica",
      max_wal_senders: "10",
      max_replication_slots: "10",
      hot_standby: "on",
      shared_buffers: "32MB",
      // In the data directory, and gone with it: what is killed leaves its other shared memory behind for ever.
      dynamic_shared_memory_type: "mmap",
      max_connections: "50",
      fsync: "off",
      log_timezone: "UTC",
      timezone: "UTC",
      ...this.#settings,
    };
    const lines = Object.entries(settings).map(([name, value]) =>
      `${name} = '${value.replaceAll("'", "''")}'\n`
    );
    this.writeDataFile("harness.conf", lines.join(""));
  }

  /** Replaces pg_hba.conf; the server must `reload()` it. */
  setHba(lines: readonly string[]): void {
    this.writeDataFile(
      "pg_hba.conf",
      [
        `local all ${SUPERUSER} trust`,
        `host all ${SUPERUSER} ${SUPERUSER_ADDRESS}/32 trust`,
        ...lines,
        "",
      ].join("\n"),
    );
  }

  /** Writes a file below the data directory, owned by the server, 0600: settings, keys, certificates. Returns its path. */
  writeDataFile(name: string, content: string | Uint8Array): string {
    const path = join(this.dataDirectory, name);
    fs.writeFileSync(path, content, { mode: 0o600 });
    giveToServer(path);
    return path;
  }

  /** A libpq connection string (keyword/value) for the superuser over TCP; what is given replaces or adds. */
  conninfo(changes: Readonly<Record<string, string>> = {}): string {
    const values = { host: this.host, port: String(this.port), user: this.superuser, ...changes };
    return Object.entries(values).map(([key, value]) => `${key}=${quoteConninfo(value)}`).join(" ");
  }

  /**
   * An ordinary connection of the superuser, whom `SUPERUSER_ADDRESS` always lets in; the caller ends it.
   *
   * Not over the Unix socket: Deno 2.9 closes the descriptor of one twice, and by then it may be a file of another
   * test, as `deno test --parallel` runs them all in one process.
   * The driver's PG* variables count for nothing: test files that run at the same time share one environment.
   */
  connect(options: postgres.Options<Record<string, never>> = {}): postgres.Sql {
    const start = postgres as unknown as (options: unknown) => postgres.Sql;
    const { options: known } = start({
      host: this.host,
      port: this.port,
      ...(options.host === undefined && options.path === undefined
        ? { socket: () => connectFrom(SUPERUSER_ADDRESS, this.port) }
        : {}),
      username: this.superuser,
      password: "",
      database: "postgres",
      ssl: false,
      max: 1,
      idle_timeout: 0,
      connect_timeout: 30,
      prepare: false,
      fetch_types: false,
      target_session_attrs: "primary", // any known word keeps PGTARGETSESSIONATTRS out
      onnotice: () => {},
      ...options,
    });
    return start({ ...known, target_session_attrs: options.target_session_attrs });
  }

  /** Runs statements on a connection of their own and returns the rows of the last one. */
  async sql<Row extends object = Record<string, unknown>>(text: string): Promise<readonly Row[]> {
    const connection = this.connect();
    try {
      const result = await connection.unsafe(text).simple() as unknown as
        | readonly Row[]
        | readonly (readonly Row[])[];
      // Several statements: one result for each.
      const last = Array.isArray(result[0]) ? result.at(-1) : result;
      return [...last as readonly Row[]];
    } finally {
      await connection.end({ timeout: 5 });
    }
  }

  /** The first column of the first row, as text. */
  async value(text: string): Promise<string> {
    const [row] = await this.sql(text);
    if (row === undefined) throw new Error(`Cannot tell the value of "${text}": no row`);
    return String(Object.values(row)[0]);
  }

  /** The names of the WAL segments in pg_wal, lowest first. */
  walFiles(): readonly string[] {
    return fs.readdirSync(join(this.dataDirectory, "pg_wal")).filter((name) => /^[0-9A-F]{24}$/.test(name))
      .sort();
  }

  /** What the server has logged so far. */
  log(): string {
    return fs.readFileSync(this.logPath, "utf8");
  }

  /** Makes a standby a primary on the next timeline. */
  async promote(): Promise<void> {
    const promoted = await this.value("SELECT pg_promote(true, 60)");
    if (promoted !== "true" && promoted !== "t") throw new Error(`Cannot promote: ${promoted}`);
  }

  /**
   * Copies the running cluster's data directory, WAL left out, into a directory that does not exist yet.
   *
   * Works without pg_basebackup, which the embedded servers lack. Start from it with `startCluster({ from })`.
   */
  async backup(directory: string): Promise<BackupCopy> {
    const [start, stop] = this.major >= 15
      ? ["pg_backup_start('harness', true)", "pg_backup_stop(false)"]
      : ["pg_start_backup('harness', true, false)", "pg_stop_backup(false, false)"];
    const session = this.connect(); // the same session must stop it
    try {
      const [started] = await session.unsafe(`SELECT ${start}::text AS lsn`);
      copyTree({ source: this.dataDirectory, target: directory, skip: isLeftOutOfBackups });
      const [stopped] = await session.unsafe(`SELECT lsn::text, labelfile, spcmapfile FROM ${stop}`);
      if (stopped?.["spcmapfile"]) throw new Error("Cannot copy the cluster: it has tablespaces");
      const label = join(directory, "backup_label");
      fs.writeFileSync(label, stopped?.["labelfile"], { mode: 0o600 });
      giveToServer(label);
      return { directory, startLsn: started?.["lsn"], endLsn: stopped?.["lsn"] };
    } finally {
      await session.end({ timeout: 5 });
    }
  }

  /** Makes and starts a standby that streams from this server. */
  async createStandby(options: ClusterOptions & { readonly name?: string } = {}): Promise<Cluster> {
    const { name = "standby", ...rest } = options;
    const { synchronous_standby_names: _, ...settings } = this.#settings; // it would wait for itself once promoted
    const copy = join(this.directory, `copy-${process.pid}-${Date.now()}`);
    try {
      await this.backup(copy);
      return await startCluster({
        ...rest,
        major: this.major,
        from: copy,
        signal: "standby.signal",
        settings: {
          ...settings,
          primary_conninfo: this.conninfo({ application_name: name }),
          ...rest.settings,
        },
      });
    } finally {
      fs.rmSync(copy, { recursive: true, force: true });
    }
  }

  /** Ends the server, whatever its state, and removes all its files. Safe to call twice. */
  async destroy(): Promise<void> {
    try {
      this.resume();
      await this.kill();
    } finally {
      // Fails when the server ended in order, and took it along.
      if (this.#sharedMemory !== undefined) spawnSync("ipcrm", ["-m", this.#sharedMemory]);
      this.#sharedMemory = undefined;
      fs.rmSync(this.directory, { recursive: true, force: true });
      this.#watchdog?.stdin?.end("done\n");
      this.#watchdog = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  /** Lines of postmaster.pid: process, directory, start, port, socket directory, address, shared memory, state. */
  #postmasterFile(): readonly string[] {
    try {
      const lines = fs.readFileSync(join(this.dataDirectory, "postmaster.pid"), "utf8").split("\n");
      const ours = this.#server === undefined || Number(lines[0]) === this.#server.pid;
      return ours ? lines : [];
    } catch {
      return []; // not there: not started, or ended
    }
  }
}

interface Made {
  readonly programs: ServerPrograms;
  readonly segmentBytes: number;
}

/** Its parent directory is the server account's. */
function runInitdb({ programs, segmentBytes }: Made, dataDirectory: string, more: readonly string[]): void {
  const options = [
    `--pgdata=${dataDirectory}`,
    `--username=${SUPERUSER}`,
    `--wal-segsize=${segmentBytes / (1024 * 1024)}`,
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    ...more,
  ];
  const directory = dirname(dataDirectory);
  const run = spawnSync(join(programs.binDirectory, "initdb"), options, {
    ...serverAccount(),
    cwd: directory,
    env: serverEnvironment(directory),
    encoding: "utf8",
  });
  if (run.status !== 0) {
    throw new Error(`Cannot make a cluster: ${run.error?.message ?? run.stdout + run.stderr}`);
  }
}

/** What initdb makes takes longer than most tests: in a run of many files it does so once for each kind of cluster. */
function madeOnce(shared: string, made: Made): string {
  const finished = join(shared, `initdb-${made.programs.major}-${made.segmentBytes}`);
  if (fs.existsSync(finished)) return join(finished, "data");
  // Others may make the same just now: it gets its name when it is whole.
  const directory = fs.mkdtempSync(`${finished}-`);
  fs.chmodSync(directory, 0o755);
  giveToServer(directory);
  runInitdb(made, join(directory, "data"), []);
  try {
    fs.renameSync(directory, finished);
  } catch {
    fs.rmSync(directory, { recursive: true });
  }
  return join(finished, "data");
}

/**
 * A system identifier of its own, as initdb draws it, for a cluster that never ran.
 *
 * It begins pg_control, which ends in a checksum, and stands in the first page's header of each segment.
 */
function giveIdentifier(dataDirectory: string): void {
  const seconds = BigInt(Math.floor(Date.now() / 1000));
  const identifier = (seconds << 32n) | BigInt(randomBytes(4).readUInt32LE());
  const controlPath = join(dataDirectory, "global", "pg_control");
  const control = fs.readFileSync(controlPath);
  let checksumAt = 8;
  while (crc32c(control.subarray(0, checksumAt)) !== control.readUInt32LE(checksumAt)) checksumAt += 4;
  control.writeBigUInt64LE(identifier, 0);
  control.writeUInt32LE(crc32c(control.subarray(0, checksumAt)), checksumAt);
  fs.writeFileSync(controlPath, control);
  for (const name of fs.readdirSync(join(dataDirectory, "pg_wal"))) {
    if (!/^[0-9A-F]{24}$/.test(name)) continue;
    const wal = fs.openSync(join(dataDirectory, "pg_wal", name), "r+");
    fs.writeSync(wal, control, 0, 8, 24);
    fs.closeSync(wal);
  }
}

/** The lines of pg_hba.conf that a cluster has by default. */
export const TRUST_THIS_MACHINE: readonly string[] = ["local", "host"].flatMap((kind) =>
  ["all", "replication"].flatMap((database) =>
    kind === "local"
      ? [`local ${database} all trust`]
      : [`host ${database} all 127.0.0.1/32 trust`, `host ${database} all ::1/128 trust`]
  )
);

/** As pg_basebackup leaves out: what a start makes anew, and what must not be in two places. */
function isLeftOutOfBackups(path: string): boolean {
  if (
    /^(postmaster\.(pid|opts)|standby\.signal|recovery\.signal|backup_label(\.old)?|backup_manifest)$/.test(
      path,
    )
  ) {
    return true;
  }
  if (/^pg_wal\/./.test(path)) return !/^pg_wal\/(archive_status|summaries)$/.test(path);
  return /^(pg_replslot|pg_dynshmem|pg_notify|pg_serial|pg_snapshots|pg_stat_tmp|pg_subtrans)\/./.test(
    path,
  ) ||
    path.split("/").some((part) => part.startsWith("pgsql_tmp"));
}

interface Copying {
  readonly source: string;
  readonly target: string;
  readonly skip: (path: string) => boolean;
}

/** Copies a data directory that may be in use: a file that goes away meanwhile is left out; pg_control comes last. */
function copyTree({ source, target, skip }: Copying): void {
  const control = "global/pg_control";
  const copyFile = (path: string) => {
    fs.copyFileSync(join(source, path), join(target, path));
    fs.chmodSync(join(target, path), 0o600);
    giveToServer(join(target, path));
  };
  const walk = (path: string) => {
    fs.mkdirSync(join(target, path), { mode: 0o700 });
    giveToServer(join(target, path));
    for (const entry of fs.readdirSync(join(source, path), { withFileTypes: true })) {
      const below = path === "" ? entry.name : `${path}/${entry.name}`;
      if (skip(below) || below === control) continue;
      if (entry.isDirectory()) walk(below);
      else if (entry.isFile()) ignoringAbsence(() => copyFile(below));
    }
  };
  walk("");
  copyFile(control);
}

function ignoringAbsence(action: () => void): void {
  try {
    action();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

function giveToServer(path: string): void {
  const account = serverAccount();
  if (account !== undefined) fs.chownSync(path, account.uid, account.gid);
}

function serverEnvironment(home: string): Record<string, string> {
  return { PATH: "/usr/bin:/bin", HOME: home, LC_ALL: "C", TZ: "UTC" };
}

function quoteConninfo(value: string): string {
  return /^[^\s'\\]+$/.test(value) ? value : `'${value.replace(/['\\]/g, "\\$&")}'`;
}

async function connectFrom(localAddress: string, port: number): Promise<Socket> {
  const socket = connect({ host: "127.0.0.1", port, localAddress });
  await once(socket, "connect");
  return socket;
}

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("Cannot find a free port");
  return address.port;
}

/** Parent and state of each process, from /proc/PID/stat: `pid (name) state parent …`, and a name may hold anything. */
function processTable(): ReadonlyMap<number, { readonly parent: number; readonly state: string }> {
  const table = new Map<number, { parent: number; state: string }>();
  for (const name of fs.readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${name}/stat`, "utf8");
      const [state = "", parent = ""] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      table.set(Number(name), { parent: Number(parent), state });
    } catch {
      // It ended while we looked.
    }
  }
  return table;
}

function descendants(pid: number): readonly number[] {
  const table = [...processTable()];
  const below = (parent: number): number[] =>
    table.filter(([, entry]) => entry.parent === parent).flatMap(([child]) => [child, ...below(child)]);
  return below(pid);
}

function isAlive(pid: number): boolean {
  const state = processTable().get(pid)?.state;
  return state !== undefined && state !== "Z";
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/**
 * A shell that outlives us if we are killed, and then ends the server and removes its files.
 *
 * It sees the end of the pipe that only we hold. It signals a process only if that one works in our data directory, so
 * never a stranger that got the same number.
 */
function startWatchdog(directory: string, dataDirectory: string): ChildProcess {
  const script = `
    trap '' INT TERM HUP
    read -r answer && exit 0
    pid=$(sed -n 1p "$2/postmaster.pid" 2>/dev/null)
    memory=$(sed -n 7p "$2/postmaster.pid" 2>/dev/null)
    works_here() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$2" ]; }
    if works_here "$@"; then kill -CONT "$pid"; kill -QUIT "$pid"; fi
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do works_here "$@" || break; sleep 0.25; done
    if works_here "$@"; then kill -KILL "$pid"; sleep 1; fi
    [ -z "$memory" ] || ipcrm -m "\${memory##* }" 2>/dev/null
    rm -rf "$1"`;
  const watchdog = spawn("sh", ["-c", script, "sh", directory, dataDirectory], {
    cwd: "/",
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  return watchdog;
}
