import process from "node:process";
import { Archive } from "../archive/archive.ts";
import type { Adoption } from "../archive/adopt.ts";
import type { Disk } from "../archive/disk.ts";
import { openDiskThread } from "../archive/disk_thread.ts";
import { errorCode } from "../archive/durable.ts";
import { type FileLock, lockFile } from "../archive/flock.ts";
import { LOCK_FILE } from "../archive/layout.ts";
import { GapReceivingArchive } from "../archive/gap_receiving_archive.ts";
import { type MinimumFree, minimumFreeBytes } from "../archive/minimum_free.ts";
import { RECEIVING_MEMORY_BYTES } from "../archive/receiving_archive.ts";
import type { ConnectionSettings } from "../conninfo/settings.ts";
import { type Log, messageChain } from "../log.ts";
import { PermanentError } from "../receiver/failure.ts";
import type { LegPosition } from "../receiver/leg.ts";
import type { WalSource } from "../receiver/wal_source.ts";
import { dropElsewhere } from "../receiver/slots_elsewhere.ts";
import { StandbySlots } from "../receiver/standby_slots.ts";
import { type ReceiveEnd, receiveWal } from "../receiver/receive.ts";
import { askHosts, connect } from "../session/connect.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { realClock } from "./clock.ts";
import { commandConnection } from "./connection.ts";
import type { Compressing } from "./compressing.ts";
import { type CommandContext, EXIT, hintOf, UsageError } from "./context.ts";
import { dropSlot } from "./drop_slot.ts";
import { giveSlotUp } from "./giving_up.ts";
import { Healing } from "./healing.ts";
import type { Indexing } from "./indexing.ts";
import { KeptWalLook } from "./kept_wal.ts";
import { LiveLine } from "./live_line.ts";
import { commandLog } from "./logging.ts";
import { maskSecrets } from "./mask_secrets.ts";
import type { ReceiveCommandOptions } from "./receive_options.ts";
import { notifyServiceManager } from "./service_manager.ts";
import { SlotGuardian } from "./slot_guardian.ts";
import { slotHosts } from "./slot_hosts.ts";

/** The server has this long to confirm the end of the stream. */
const STOP_TIMEOUT_MS = 10_000;

/** Streams until told to stop; resolves to the exit code. */
export async function receive(options: ReceiveCommandOptions, context: CommandContext): Promise<number> {
  const log = commandLog(context, options);
  checkUsage(options);
  const { settings, warnings } = commandConnection(options.connection, context);
  const directory = options.archive ?? context.env["WALVAULT_ARCHIVE"];
  if (!options.dropSlot && (directory === undefined || directory === "")) {
    throw new UsageError(
      "No archive is given",
      "Name the archive directory with --archive, or in WALVAULT_ARCHIVE",
    );
  }
  for (const warning of warnings) log.warn("connection string", { warning });
  try {
    if (options.dropSlot) {
      const { slot = "", slotOnStandbys: onStandbys = false } = options;
      return await dropSlot({ slot, onStandbys }, { settings, log }, context.signal);
    }
    return await receiveInto(directory ?? "", { options, settings, log }, context);
  } catch (error) {
    // Who reads JSON lines has to find the one that matters most among them.
    if (options.logFormat !== "json") throw error;
    log.error("failed", { error: maskSecrets(messageChain(error)), hint: hintOf(error) });
    return EXIT.failed;
  }
}

function checkUsage(options: ReceiveCommandOptions): void {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  for (
    const [flag, given] of [
      ["--create-slot", options.createSlot],
      ["--drop-slot", options.dropSlot],
      ["--slot-on-standbys", options.slotOnStandbys],
    ] as const
  ) {
    if (given && options.slot === undefined) {
      throw new UsageError(`${flag} needs a slot`, "Name it with --slot");
    }
  }
  for (
    const [flag, given] of [
      ["--halt-lag", options.haltLag !== undefined],
      ["--halt-after", options.haltAfter !== undefined],
      ["--halt-action drop-slot", options.haltAction === "drop-slot"],
    ] as const
  ) {
    if (given && options.slot === undefined) {
      throw new UsageError(`${flag} needs a slot`, "Name it with --slot");
    }
  }
  if (
    options.haltAction === "drop-slot" && options.haltLag === undefined && options.haltAfter === undefined
  ) {
    throw new UsageError("--halt-action drop-slot needs a limit", "Give --halt-lag, --halt-after, or both");
  }
  if (options.haltAction === "drop-slot" && !options.hardLinks) {
    throw new UsageError(
      "--halt-action drop-slot needs hard links: what it leaves missing is brought in beside the receiver",
      "Leave it out, or put the archive on a file system with hard links and leave out --no-hard-links",
    );
  }
  if (options.peer !== undefined && !options.hardLinks) {
    throw new UsageError(
      "--peer needs hard links: what comes from there is given its name beside the receiver",
      "Leave out --peer, or put the archive on a file system with hard links and leave out --no-hard-links",
    );
  }
  if (options.createSlot && options.dropSlot) {
    throw new UsageError("--create-slot and --drop-slot exclude each other", "Give one of them");
  }
}

interface Receiving {
  readonly options: ReceiveCommandOptions;
  readonly settings: ConnectionSettings;
  readonly log: Log;
}

interface Streaming extends Receiving {
  readonly live: LiveLine;
  readonly compressing: Compressing | undefined;
  readonly indexing: Indexing | undefined;
  readonly healing: Healing | undefined;
  /** The archive on a disk thread of its own. */
  proofOn(): Promise<Archive>;
}

async function receiveInto(
  directory: string,
  receiving: Receiving,
  context: CommandContext,
): Promise<number> {
  const { options } = receiving;
  const disk = openDiskThread(directory, RECEIVING_MEMORY_BYTES);
  let lock: FileLock | undefined;
  let compressing: Compressing | undefined;
  let indexing: Indexing | undefined;
  let healing: Healing | undefined;
  let proofDisk: Disk | undefined;
  const live = new LiveLine(context.stderr, realClock, {
    enabled: options.quiet !== true && options.logFormat === "text",
  });
  const log = live.above(receiving.log);
  try {
    const archive = await openArchive(disk, { options, log });
    if (options.minFree !== undefined) await refuseImpossibleMinimum(archive, options.minFree);
    lock = lockArchive(directory, archive.modes.file);
    // The look before was without the lock: somebody may have made it an archive meanwhile.
    const claimed = await openArchive(disk, { options, log });
    await claimed.removeCompressing();
    await warnOfUnknownLines(claimed, log);
    if (options.compress !== undefined && options.compress !== "none") {
      // Only now: who does not compress needs none of it.
      const { Compressing } = await import("./compressing.ts");
      compressing = await Compressing.open(claimed, options.compress, log);
    }
    if (options.index) {
      const { Indexing } = await import("./indexing.ts");
      indexing = new Indexing(claimed, log);
    }
    if (options.hardLinks) {
      healing = new Healing({
        directory,
        peers: options.peer ?? [],
        settings: receiving.settings,
        timeoutMs: options.receiveTimeout,
        minimumFree: options.minFree,
        log,
        onBrought: (segment) => {
          compressing?.published(segment);
          indexing?.published(segment);
        },
      });
    }
    // What is proven of a gap is read beside what becomes durable, and beside what is brought in.
    const proofOn = async () => {
      proofDisk ??= openDiskThread(directory, 0);
      return await openArchive(proofDisk, { options, log });
    };
    return await stream(
      claimed,
      { ...receiving, log, live, compressing, indexing, healing, proofOn },
      context,
    );
  } finally {
    const ends = await Promise.all([
      disk.close(),
      compressing?.close(),
      indexing?.close(),
      healing?.close(),
      proofDisk?.close(),
    ]);
    // The lock goes last: until its threads have ended, this process may still write. A stuck one keeps it to the end.
    if (!ends.includes("stuck")) lock?.release();
  }
}

/** What the operating system refuses gets its subject: a bare "permission denied" helps nobody. */
async function openArchive(
  disk: Disk,
  { options, log }: Pick<Receiving, "options" | "log">,
): Promise<Archive> {
  const { hardLinks } = options;
  const onAdopted = (adoption: Adoption) => log.info("directory became an archive", { ...adoption });
  try {
    return await Archive.open(disk, { naming: { hardLinks }, userId: process.geteuid?.(), onAdopted });
  } catch (cause) {
    if (errorCode(cause) === undefined) throw cause;
    throw new PermanentError(`Cannot open the archive "${disk.root}"`, { cause });
  }
}

/** A newer program may have meant something by them that this one does not do. */
async function warnOfUnknownLines(archive: Archive, log: Log): Promise<void> {
  const { unknownLines, unreadableLines } = await archive.ledger();
  if (unknownLines + unreadableLines === 0) return;
  log.warn("gap ledger has lines that do not count", {
    unknownLines,
    unreadableLines,
    hint: "unknown ones were written by a newer walvault: use that; see: walvault gap list",
  });
}

/** It would wait for ever. */
async function refuseImpossibleMinimum({ disk, identity }: Archive, minimum: MinimumFree): Promise<void> {
  // A file system that does not tell is not watched.
  const { totalBytes } = await disk.space().catch(() => ({ totalBytes: 0 }));
  const bytes = minimumFreeBytes(minimum, { totalBytes, segmentBytes: identity?.segmentSize ?? 0 });
  if (bytes < totalBytes || totalBytes === 0) return;
  throw new PermanentError(
    `Cannot receive into "${disk.root}": --min-free wants ${bytes} bytes, its file system has ${totalBytes} in all; ` +
      "give less, or a larger file system",
  );
}

function lockArchive(directory: string, mode: number): FileLock {
  let lock: FileLock | undefined;
  try {
    lock = lockFile(`${directory}/${LOCK_FILE}`, mode);
  } catch (cause) {
    throw new PermanentError(
      `Cannot write to the archive "${directory}"; give its owner the right to (chmod u+rwx), or mount it read-write`,
      { cause },
    );
  }
  if (lock !== undefined) return lock;
  throw new PermanentError(
    `Cannot receive into "${directory}": another walvault receives into it; stop that one first, or use another directory`,
  );
}

async function stream(archive: Archive, receiving: Streaming, context: CommandContext): Promise<number> {
  const { options, settings, log, live, compressing, indexing, healing } = receiving;
  let position: LegPosition | undefined;
  const unknownMagics = new Set<number>();
  const events = {
    segmentPublished: (event: { segment: string; endLsn: Lsn }) => {
      log.debug("segment archived", { segment: event.segment, flushLsn: formatLsn(event.endLsn) });
      compressing?.published(event.segment);
      indexing?.published(event.segment);
    },
    savedCopyKept: (event: { path: string; validEndLsn: Lsn }) =>
      log.info("unfinished segment kept", { path: event.path, validEndLsn: formatLsn(event.validEndLsn) }),
    savedCopyPassed: (event: { path: string }) => log.info("unfinished segment received again", event),
    unknownPageMagic: ({ segment, magic }: { segment: string; magic: number }) => {
      if (unknownMagics.has(magic)) return;
      unknownMagics.add(magic);
      log.warn("wal of an unknown version", { segment, magic: `0x${magic.toString(16).toUpperCase()}` });
    },
  };
  const dependencies = {
    connect: (accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal) =>
      connect(settings, { log, accept, signal }),
    askHosts: <T>(ask: (source: WalSource) => Promise<T>, signal: AbortSignal) =>
      askHosts(settings, { log, signal }, ask),
    archive: new GapReceivingArchive(archive, {
      clock: realClock,
      events,
      minimumFree: options.minFree,
      now: () => new Date(),
      proofOn: receiving.proofOn,
    }),
    healer: healing,
    clock: realClock,
    log,
    random: Math.random,
    onPosition: (now: LegPosition) => {
      position = now;
      live.show(now);
      showInTitle(now);
    },
    onStreaming: (address: string) => {
      guardian?.streamingFrom(address);
      notifyServiceManager("--ready", `streaming from ${address}`, { env: context.env, log });
    },
  };
  const timing = {
    statusIntervalMs: options.statusInterval,
    receiveTimeoutMs: options.receiveTimeout,
    stallTimeoutMs: options.stallTimeout,
    stopTimeoutMs: STOP_TIMEOUT_MS,
  };
  const { slot, createSlot = false, endpos: endLsn, loop } = options;
  const { haltLag: lagBytes, haltAfter: afterMs, haltAction: action } = options;
  const policy = { lagBytes, afterMs, action };
  const guardian = slot === undefined ? undefined : new SlotGuardian(settings, {
    slot,
    policy,
    clock: realClock,
    log,
    durable: () => position?.flushLsn,
  });
  const ended = new AbortController();
  const watching = guardian?.run(AbortSignal.any([context.signal, ended.signal]));
  const signal = guardian === undefined ? context.signal : AbortSignal.any([context.signal, guardian.halt]);
  const keptWal = new KeptWalLook({
    lineage: (timeline) => archive.lineage(timeline),
    gapMark: () => dependencies.archive.gapMark(),
    survey: async () => {
      // On a thread of its own: what is received waits for ours.
      const beside = await healing?.archive() ?? archive;
      return { contents: await beside.contents(), ledger: await beside.ledger() };
    },
  });
  const hosts = options.slotOnStandbys ? slotHosts(settings, log) : [];
  const slots = slot === undefined || hosts.length === 0 ? undefined : new StandbySlots({
    hosts,
    slot,
    clock: realClock,
    log,
    systemIdentifier: () => archive.identity?.systemIdentifier,
    streamingFrom: () => guardian?.address,
    flushed: () => position === undefined ? Promise.resolve(undefined) : keptWal.at(position),
  });
  const keeping = slots?.run(AbortSignal.any([context.signal, ended.signal]));
  try {
    const end = await receiveWal(dependencies, {
      slot,
      createSlot,
      endLsn,
      loop,
      // A run that is to end says with its exit code that all is here. Without hard links nobody could fill a gap.
      gaps: options.gaps && loop && endLsn === undefined && options.hardLinks ? "record" : "stop",
      timing,
      applicationName: settings.applicationName ?? "walvault",
    }, signal);
    live.clear();
    if (end === "stopped" && guardian?.halt.aborted && !context.signal.aborted) {
      // It would make those anew that are dropped.
      ended.abort();
      await keeping;
      const { identity } = archive;
      const others = hosts.filter(({ name }) => name !== guardian.address);
      const elsewhere = { hosts: others, slot: slot ?? "", clock: realClock, log };
      await giveSlotUp(guardian, {
        slot: slot ?? "",
        archive: dependencies.archive,
        identity,
        clock: realClock,
        log,
        dropElsewhere: () =>
          identity === undefined
            ? Promise.resolve([])
            : dropElsewhere({ ...elsewhere, systemIdentifier: identity.systemIdentifier }),
      });
    }
    log.info("stopped", {
      reason: end,
      ...(position === undefined ? {} : { flushLsn: formatLsn(position.flushLsn) }),
    });
    if (options.json) context.stdout.write(formatEnd(end, position));
    return EXIT.done;
  } finally {
    ended.abort();
    await Promise.all([watching, keeping]);
    live.clear();
    notifyServiceManager("--stopping", "stopping", { env: context.env, log });
  }
}

function formatEnd(end: ReceiveEnd, position: LegPosition | undefined): string {
  const where = position === undefined
    ? {}
    : { timeline: position.timeline, flushLsn: formatLsn(position.flushLsn) };
  return JSON.stringify({ end, ...where }) + "\n";
}

function showInTitle(position: LegPosition): void {
  process.title = `walvault receive ${formatLsn(position.flushLsn)}`;
}
