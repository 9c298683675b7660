import { Archive } from "../../lib/archive/archive.ts";
import { CopySource } from "../../lib/archive/copy_source.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import type { Naming } from "../../lib/archive/durable.ts";
import { GapFiller } from "../../lib/archive/gap_filler.ts";
import { nameOf } from "../../lib/archive/layout.ts";
import type { MinimumFree } from "../../lib/archive/minimum_free.ts";
import type { Clock } from "../../lib/receiver/clock.ts";
import { healGaps, type HealingSource } from "../../lib/receiver/healing.ts";
import { HostSource, type SegmentIntake } from "../../lib/receiver/host_source.ts";
import type { GapHealer } from "../../lib/receiver/wal_archive.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import type { SegmentRun } from "../../lib/wal/lineage.ts";

/** One process heals at a time, and what a dead one reads of it does not matter. */
const PIECES = Array.from({ length: 4 }, () => new Uint8Array(1 << 19));

/** What healing is given from outside. */
export interface SimHealingOptions {
  /** The archive's, for it alone. */
  readonly disk: Disk;
  readonly naming: Naming;
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly minimumFree: MinimumFree | undefined;
  readonly hosts: readonly { readonly address: string; connect(): Promise<WalSource> }[];
  /** Called before something of a segment is written. */
  onTaking(name: string): void;
  /** It is in the archive. */
  onBrought(name: string): void;
  readonly trace: (text: string) => void;
}

interface Opened {
  readonly archive: Archive;
  readonly filler: GapFiller;
  readonly sources: readonly HealingSource[];
}

/** Healing as `receive` has it, on the simulated machine: from kept copies, and from each host. */
export class SimHealing implements GapHealer {
  #opening: Promise<Opened> | undefined;
  #filler: GapFiller | undefined;
  #suffixes = 0;

  constructor(private readonly options: SimHealingOptions) {}

  get takenBytes(): number {
    return this.#filler?.takenBytes ?? 0;
  }

  async heal(gaps: readonly SegmentRun[], signal: AbortSignal): Promise<void> {
    const { onBrought, trace } = this.options;
    try {
      const { archive, sources } = await this.#open();
      const size = archive.identity!.segmentSize;
      const rounds = await healGaps(gaps, sources, {
        onBrought: ({ timeline }, number) => onBrought(nameOf({ timeline, number }, size)),
        signal,
      });
      for (const { answers } of rounds) {
        for (const { source, segments, answer } of answers) {
          trace(`healing: ${source} brought ${segments}: ${answer ?? "all"}`);
        }
      }
    } catch (error) {
      signal.throwIfAborted();
      trace(`healing: ${error}`);
    }
  }

  #open(): Promise<Opened> {
    const opening = this.#opening ??= this.#openAll();
    opening.catch(() => this.#opening = undefined);
    return opening;
  }

  async #openAll(): Promise<Opened> {
    const { disk, naming, clock, timeoutMs, minimumFree, hosts, onTaking } = this.options;
    const archive = await Archive.open(disk, { naming, userId: 1000 });
    const { identity } = archive;
    if (identity === undefined) throw new Error("it is no archive yet");
    const filler = this.#filler = new GapFiller(archive, {
      pieces: PIECES,
      minimumFree,
      nowMs: () => 1e12,
      suffix: () => `h${++this.#suffixes}`,
    });
    const intake: SegmentIntake = {
      takeFilled(name, tie, fill) {
        onTaking(name);
        return filler.takeFilled(name, tie, fill);
      },
      whatIsAwaited: (segment) => filler.whatIsAwaited(segment),
      historyOf: (timeline) => filler.historyOf(timeline),
      judge: (error) => filler.judge(error),
    };
    const sources = [
      new CopySource(disk, filler, { name: "kept copies", places: "unfinished" }),
      ...hosts.map(({ address, connect }) =>
        new HostSource({ name: address, ...identity, intake, clock, timeoutMs, connect })
      ),
    ];
    return { archive, filler, sources };
  }
}
