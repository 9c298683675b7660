import * as fs from "node:fs";
import { openDiskThread } from "../archive/disk_thread.ts";
import { lockDirectory } from "../archive/flock.ts";
import { PlainDirectory } from "../archive/plain_directory.ts";
import { plainLayout } from "../archive/plain_layout.ts";
import { RECEIVING_MEMORY_BYTES } from "../archive/receiving_archive.ts";
import { commandFiles, operatingSystemUser } from "../commands/connection.ts";
import { ConninfoError } from "../conninfo/conninfo_error.ts";
import { resolveConnection } from "../conninfo/resolve_connection.ts";
import type { ConnectionSettings } from "../conninfo/settings.ts";
import { ServerError } from "../protocol/errors.ts";
import { connect } from "../session/connect.ts";
import type { Session } from "../session/session.ts";
import { connectionErrorText, serverErrorText, wantsPassword } from "./libpq_text.ts";
import type { OriginalCall, OriginalContext } from "./originals.ts";
import type { PlainCompressing } from "./plain_compressing.ts";
import { promptForPassword } from "./password_prompt.ts";
import { readReceivewalCommandLine, type ReceivewalOptions } from "./pg_receivewal_options.ts";
import { ProgramLog } from "./program_log.ts";
import { FatalError, silentLog } from "./fatal_error.ts";
import { systemErrorText } from "./system_error.ts";
import { WalStreaming } from "./wal_streaming.ts";

const EXIT = { done: 0, failed: 1 } as const;

/** At the end segments that wait to be compressed are waited for: so long when told to stop, and so long else. */
const STOPPED_COMPRESSION_MS = 10_000;
const LAST_COMPRESSION_MS = 120_000;

/** duplicate_object: a slot of that name is there. */
const SLOT_EXISTS = "42710";

/**
 * `pg_receivewal`: streams WAL into a directory of its own layout, or makes or drops a slot.
 *
 * Resolves to the exit code: 0 when it was told to stop or reached the end position, 1 for everything else.
 */
export async function pgReceivewal(call: OriginalCall, context: OriginalContext): Promise<number> {
  const log = new ProgramLog(call.name, context.stderr);
  const commandLine = readReceivewalCommandLine(call);
  switch (commandLine.kind) {
    case "answer":
      context.stdout.write(commandLine.text);
      return EXIT.done;
    case "complaint":
      if (commandLine.text !== "") context.stderr.write(`${call.calledAs}: ${commandLine.text}\n`);
      log.tryHelp();
      return EXIT.failed;
    case "wrong":
      log.error(commandLine.problem);
      if (commandLine.hint === "try-help") log.tryHelp();
      return EXIT.failed;
    case "work":
  }
  try {
    await new Receivewal(commandLine.options, { log, context }).run();
    return EXIT.done;
  } catch (error) {
    if (!(error instanceof FatalError)) throw error;
    log.error(error.message);
    if (error.hint !== undefined) log.hint(error.hint);
    return EXIT.failed;
  }
}

interface Surroundings {
  readonly log: ProgramLog;
  readonly context: OriginalContext;
}

class Receivewal {
  #settings: ConnectionSettings;
  #password: string | undefined;

  /** @throws {FatalError} on a connection string that libpq would refuse. */
  constructor(private readonly options: ReceivewalOptions, private readonly surroundings: Surroundings) {
    this.#settings = this.#resolve();
  }

  /** @throws {FatalError} for every end but one that was asked for. */
  async run(): Promise<void> {
    const { action, directory } = this.options;
    if (action === "stream") openable(directory);
    const source = await this.#firstConnection();
    // Not before: until a password is typed, an interrupt ends the program.
    this.surroundings.context.stopBySignals();
    if (action === "stream") await this.#stream(source);
    else await this.#slotAction(source, action).finally(() => source.close());
  }

  #resolve(): ConnectionSettings {
    const { context, log } = this.surroundings;
    try {
      const { settings, warnings } = resolveConnection({
        conninfo: this.options.conninfo,
        overrides: this.options.overrides,
        env: context.env,
        files: commandFiles,
        homeDirectory: context.env["HOME"],
        operatingSystemUser: operatingSystemUser(context),
        fallbackApplicationName: "pg_receivewal",
      });
      for (const warning of warnings) log.warning(warning);
      // A database in the connection string does not count: replication needs none.
      return { ...settings, database: undefined };
    } catch (error) {
      if (!(error instanceof ConninfoError)) throw error;
      // Not in libpq's words: these may repeat a password.
      throw new FatalError(error.message, { hint: error.hint });
    }
  }

  async #firstConnection(): Promise<Session> {
    try {
      return await this.#connect();
    } catch (error) {
      throw new FatalError(connectionErrorText(error, this.#settings.hosts), { cause: error });
    }
  }

  /** Asks for a password where the server wants one; it is remembered. */
  async #connect(): Promise<Session> {
    const { password } = this.options;
    const { context } = this.surroundings;
    if (password === "always" && this.#password === undefined) {
      this.#usePassword(promptForPassword(context.stderr));
    }
    const options = { log: silentLog, signal: context.signal };
    try {
      return await connect(this.#settings, options);
    } catch (error) {
      if (!wantsPassword(error) || password === "never" || this.#password !== undefined) throw error;
      this.#usePassword(promptForPassword(context.stderr));
      return await connect(this.#settings, options);
    }
  }

  #usePassword(password: string): void {
    this.#password = password;
    if (password === "") return;
    const hosts = this.#settings.hosts.map((host) => ({ ...host, password }));
    this.#settings = { ...this.#settings, hosts };
  }

  async #slotAction(source: Session, action: "create-slot" | "drop-slot"): Promise<void> {
    const { slot = "", verbose, ifNotExists } = this.options;
    const { log } = this.surroundings;
    const creates = action === "create-slot";
    if (verbose) log.info(`${creates ? "creating" : "dropping"} replication slot "${slot}"`);
    const command = creates
      ? `CREATE_REPLICATION_SLOT "${slot}" PHYSICAL`
      : `DROP_REPLICATION_SLOT "${slot}"`;
    try {
      await (creates ? source.createIdleSlot(slot) : source.dropSlot(slot));
    } catch (error) {
      if (creates && ifNotExists && error instanceof ServerError && error.sqlState === SLOT_EXISTS) return;
      throw new FatalError(`could not send replication command "${command}": ${slotErrorText(error, slot)}`, {
        cause: error,
      });
    }
  }

  async #stream(first: Session): Promise<void> {
    const { directory, synchrony, slot, compression } = this.options;
    const { log, context } = this.surroundings;
    const lock = lockDirectory(directory);
    if (lock === undefined) {
      await first.close();
      throw new FatalError(`directory "${directory}" is in use by another pg_receivewal`);
    }
    const disk = openDiskThread(directory, RECEIVING_MEMORY_BYTES);
    try {
      const sync = synchrony !== "no-sync" ? "all" : slot === undefined ? "none" : "complete-segments";
      const opened: { plain?: PlainDirectory } = {};
      const segmentBytes = () => Number(opened.plain?.identity?.segmentSize ?? 0);
      const layout = plainLayout(disk, { sync, segmentBytes });
      const plain = opened.plain = await PlainDirectory.open(layout, {
        disk,
        naming: { hardLinks: false },
        onIncomplete: ({ name, format, bytes }) =>
          log.warning(
            format === undefined
              ? `segment file "${name}" has incorrect size ${bytes}, skipping`
              : `compressed segment file "${name}" has incorrect uncompressed size ${bytes}, skipping`,
          ),
      });
      const compressing = compression === undefined
        ? undefined
        : await (await import("./plain_compressing.ts")).PlainCompressing.open({
          plain,
          compression,
          sync,
          log,
        });
      const complete = new CompleteSegments(plain, { log, compressing });
      const streaming = new WalStreaming({
        plain,
        log,
        signal: context.signal,
        options: this.options,
        hosts: () => this.#settings.hosts,
        connect: () => this.#connect(),
        onSegment: (segment) => complete.add(segment),
      });
      try {
        await streaming.run(first);
      } finally {
        await complete.settle();
        await compressing?.close(context.signal.aborted ? STOPPED_COMPRESSION_MS : LAST_COMPRESSION_MS);
      }
    } catch (error) {
      if (error instanceof FatalError) throw error;
      throw new FatalError(systemErrorText(error), { cause: error });
    } finally {
      if (await disk.close() === "ended") lock.release();
    }
  }
}

/** What is to be done with each segment when it is complete, one after the other. */
class CompleteSegments {
  #last: Promise<void> = Promise.resolve();

  constructor(
    private readonly plain: PlainDirectory,
    private readonly options: {
      readonly log: ProgramLog;
      readonly compressing: PlainCompressing | undefined;
    },
  ) {}

  add(segment: string): void {
    this.#last = this.#last.then(() => this.#finish(segment));
  }

  settle(): Promise<void> {
    return this.#last;
  }

  async #finish(segment: string): Promise<void> {
    const { log, compressing } = this.options;
    try {
      for (const name of await this.plain.removePassedPartials(segment)) {
        log.warning(`file "${name}" holds other bytes than "${segment}", and is kept`);
      }
    } catch (error) {
      // It stays, and is no more than in the way.
      log.warning(`could not compare partial files of "${segment}": ${systemErrorText(error)}`);
    }
    compressing?.published(segment);
  }
}

/** @throws {FatalError} when it is no directory that can be read. */
function openable(directory: string): void {
  try {
    fs.closeSync(fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY));
  } catch (error) {
    throw new FatalError(`could not open directory "${directory}": ${systemErrorText(error)}`, {
      cause: error,
    });
  }
}

/** A name that no slot can have is not sent: here is what the server would say. */
function slotErrorText(error: unknown, slot: string): string {
  if (error instanceof ServerError) return serverErrorText(error);
  return error instanceof RangeError
    ? `ERROR:  replication slot name "${slot}" contains invalid character\n` +
      "HINT:  Replication slot names may only contain lower case letters, numbers, and the underscore character."
    : systemErrorText(error);
}
