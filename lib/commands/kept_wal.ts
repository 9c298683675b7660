import { firstWanted, type GapLedger } from "../archive/gaps.ts";
import type { ArchiveContents } from "../archive/archive.ts";
import type { LegPosition } from "../receiver/leg.ts";
import type { KeptWal } from "../receiver/standby_slots.ts";
import { emptyHistory, type TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";

type Position = Pick<LegPosition, "timeline" | "flushLsn" | "segmentSize">;

/** What `KeptWalLook` asks an archive; all but `survey` takes no longer when there are many segments. */
export interface KeptWalSource {
  lineage(timeline: TimelineId): Promise<TimelineHistory>;
  /** Changes whenever something is written to the ledger; "" while there is none. */
  gapMark(): Promise<string>;
  /** Looks through the whole archive. */
  survey(): Promise<{ readonly contents: ArchiveContents; readonly ledger: GapLedger }>;
}

/**
 * Tells what slots need not keep any more: what is durable here, but nothing past WAL that was recorded as missing. A host
 * that nobody could reach may still have that.
 *
 * To look through a large archive takes a while. That is done only when the ledger or the line has changed: what comes or
 * is removed counts when the ledger tells of it.
 */
export class KeptWalLook {
  #known:
    | { readonly mark: string; readonly lineage: TimelineHistory; readonly wantedLsn: Lsn | undefined }
    | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #history: TimelineHistory = emptyHistory(1 as TimelineId);

  constructor(private readonly source: KeptWalSource) {}

  /** One after the other: who asks at the same time shares what is found. */
  at(position: Position): Promise<KeptWal> {
    const answer = this.#last.then(() => this.#at(position));
    this.#last = answer.catch(() => {
      // Whoever asked has it; the next one looks again.
    });
    return answer;
  }

  async #at({ timeline, flushLsn, segmentSize }: Position): Promise<KeptWal> {
    // One with ancestors is never written anew.
    if (this.#history.timeline !== timeline || this.#history.entries.length === 0) {
      this.#history = await this.source.lineage(timeline);
    }
    const history = this.#history;
    const mark = await this.source.gapMark();
    const wantedLsn = mark === "" ? undefined : await this.#firstWanted(mark, { history, segmentSize });
    const gapLsn = wantedLsn !== undefined && wantedLsn < flushLsn ? wantedLsn : undefined;
    return { history, flushLsn: gapLsn ?? flushLsn, gapLsn, segmentSize };
  }

  async #firstWanted(
    mark: string,
    { history: lineage, segmentSize }: Pick<KeptWal, "history" | "segmentSize">,
  ): Promise<Lsn | undefined> {
    const known = this.#known;
    if (known?.mark === mark && isSameLine(known.lineage, lineage)) return known.wantedLsn;
    const { contents, ledger } = await this.source.survey();
    const wantedLsn = firstWanted({ contents, ledger, lineage, segmentSize });
    this.#known = { mark, lineage, wantedLsn };
    return wantedLsn;
  }
}

/** A history that came later makes another line of its timeline. */
function isSameLine(a: TimelineHistory, b: TimelineHistory): boolean {
  return a.timeline === b.timeline && a.entries.length === b.entries.length;
}
