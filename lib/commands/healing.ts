import process from "node:process";
import { Archive } from "../archive/archive.ts";
import { CopySource } from "../archive/copy_source.ts";
import type { Disk } from "../archive/disk.ts";
import { openDiskThread } from "../archive/disk_thread.ts";
import { GapFiller, NOTHING_BEHIND_YET } from "../archive/gap_filler.ts";
import { nameOf } from "../archive/layout.ts";
import { DEFAULT_MINIMUM_FREE, type MinimumFree } from "../archive/minimum_free.ts";
import type { ConnectionSettings } from "../conninfo/settings.ts";
import { type Log, messageChain } from "../log.ts";
import { type HealedGap, healGaps, type HealingSource, type Neighbour } from "../receiver/healing.ts";
import { HostSource } from "../receiver/host_source.ts";
import { connect } from "../session/connect.ts";
import { formatAddress } from "../session/socket.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentNumber, segmentStart } from "../wal/segment.ts";
import { realClock } from "./clock.ts";
import { systemIdentifierBeside } from "./control_file.ts";
import { maskSecrets } from "./mask_secrets.ts";

/** One of them is written while the others are read and looked at. */
const PIECE_BYTES = 1 << 19;
const PIECES = 4;
/** So many answers are remembered, to log each once. */
const MAXIMUM_TOLD = 256;

/** Who is asked for what is missing, besides the archive's own kept copies. */
export interface HealingOptions {
  readonly directory: string;
  /** Other archives, directories of `pg_receivewal`, a server's `pg_wal`; only read. */
  readonly peers: readonly string[];
  /** Every host of it is asked, whatever its role; nobody when it is `undefined`. */
  readonly settings: ConnectionSettings | undefined;
  /** For so long a server may say nothing. */
  readonly timeoutMs: number;
  /** How much of the archive's file system stays free; the default, if it is not given. */
  readonly minimumFree?: MinimumFree | undefined;
  readonly log: Log;
  /** A segment is in the archive that was missing. */
  readonly onBrought?: ((segment: string) => void) | undefined;
}

interface Opened {
  readonly archive: Archive;
  readonly sources: readonly HealingSource[];
}

/**
 * Brings WAL that is missing into an archive.
 *
 * All of it happens on disk threads of its own, opened at the first need: neither a receiver's disk thread nor the thread
 * that answers the server waits for a peer's disk.
 */
export class Healing {
  readonly #disks: Disk[] = [];
  readonly #told = new Set<string>();
  #opening: Promise<Opened> | undefined;
  #filler: GapFiller | undefined;

  constructor(private readonly options: HealingOptions) {}

  /** The archive, on a disk thread of its own. */
  async archive(): Promise<Archive> {
    return (await this.#open()).archive;
  }

  /** Grows with every byte that is brought. */
  get takenBytes(): number {
    return this.#filler?.takenBytes ?? 0;
  }

  /** One round, as receive has it: what comes of it is logged. It rejects only when it was told to stop. */
  async heal(gaps: readonly SegmentRun[], signal: AbortSignal): Promise<void> {
    const { log } = this.options;
    try {
      for (const { gap, answers } of await this.round(gaps, { signal })) {
        for (const { source, segments, answer } of answers) {
          if (segments > 0) {
            log.info("missing wal brought in", { ...await this.#fields(gap), source, segments });
          }
          if (answer !== undefined) this.#warnOnce(source, answer);
        }
      }
    } catch (error) {
      signal.throwIfAborted();
      this.#warnOnce(this.options.directory, messageChain(error));
    }
  }

  /**
   * Asks everybody once; `onProgress` is told of each segment that came.
   *
   * @param options.tiedTo what may vouch for what is brought, one after the other; only what stands behind it, if not given.
   */
  async round(
    gaps: readonly SegmentRun[],
    { onProgress, tiedTo, signal }: {
      readonly onProgress?: () => void;
      readonly tiedTo?: readonly Neighbour[];
      readonly signal: AbortSignal;
    },
  ): Promise<readonly HealedGap[]> {
    const { archive, sources } = await this.#open();
    const size = archive.identity!.segmentSize;
    const onBrought = ({ timeline }: SegmentRun, number: SegmentNumber) => {
      this.options.onBrought?.(nameOf({ timeline, number }, size));
      onProgress?.();
    };
    return await healGaps(gaps, sources, { onBrought, signal, ...(tiedTo === undefined ? {} : { tiedTo }) });
  }

  /** "stuck" when a disk does not answer: then something of the archive may still change. */
  async close(): Promise<"ended" | "stuck"> {
    const ends = await Promise.all(this.#disks.map((disk) => disk.close()));
    return ends.includes("stuck") ? "stuck" : "ended";
  }

  #open(): Promise<Opened> {
    const opening = this.#opening ??= this.#openAll();
    opening.catch(() => {
      // Told to whoever asked; the next one tries again.
      this.#opening = undefined;
    });
    return opening;
  }

  async #openAll(): Promise<Opened> {
    const { directory, peers } = this.options;
    const disk = openDiskThread(directory, PIECES * PIECE_BYTES);
    let archive: Archive;
    try {
      archive = await Archive.open(disk, { naming: { hardLinks: true }, userId: process.geteuid?.() });
    } catch (error) {
      await disk.close();
      throw error;
    }
    this.#disks.push(disk);
    const { identity } = archive;
    if (identity === undefined) throw new Error(`Cannot heal "${directory}": it is no archive yet`);
    const filler = new GapFiller(archive, {
      pieces: Array.from({ length: PIECES }, () => disk.allocate(PIECE_BYTES)),
      minimumFree: this.options.minimumFree ?? DEFAULT_MINIMUM_FREE,
      nowMs: () => Date.now(),
      suffix: () => [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(36)).join(""),
    });
    const sources: HealingSource[] = [
      new CopySource(disk, filler, { name: "kept copies", places: "unfinished" }),
    ];
    for (const path of peers) {
      const peer = openDiskThread(path, 0);
      this.#disks.push(peer);
      const beside = () => systemIdentifierBeside(peer);
      sources.push(new CopySource(peer, filler, { name: path, places: "all", systemIdentifier: beside }));
    }
    this.#filler = filler;
    return { archive, sources: [...sources, ...this.#hosts(filler, identity)] };
  }

  #hosts(
    intake: GapFiller,
    { systemIdentifier, segmentSize }: NonNullable<Archive["identity"]>,
  ): readonly HealingSource[] {
    const { settings, timeoutMs, log } = this.options;
    return (settings?.hosts ?? []).map((host) => {
      const alone: ConnectionSettings = {
        ...settings!,
        hosts: [host],
        targetSessionAttrs: "any",
        // A name of its own: this connection makes nothing safe, and no commit may count on it.
        applicationName: `${settings!.applicationName ?? "walvault"} heal`,
      };
      return new HostSource({
        name: formatAddress(host),
        systemIdentifier,
        segmentSize,
        intake,
        clock: realClock,
        timeoutMs,
        connect: (signal) => connect(alone, { log, signal }),
      });
    });
  }

  async #fields({ timeline, firstNumber, endNumber }: SegmentRun) {
    const size = (await this.archive()).identity!.segmentSize;
    return {
      timeline,
      startLsn: formatLsn(segmentStart(firstNumber, size)),
      endLsn: formatLsn(segmentStart(endNumber, size)),
    };
  }

  #warnOnce(source: string, answer: string): void {
    const key = `${source} ${answer}`;
    if (this.#told.has(key)) return;
    if (this.#told.size >= MAXIMUM_TOLD) this.#told.clear();
    this.#told.add(key);
    // It waits for the next round; nobody has to do anything.
    const level = answer === NOTHING_BEHIND_YET ? "debug" : "warn";
    this.options.log[level]("missing wal not brought in", { source, answer: maskSecrets(answer) });
  }
}
