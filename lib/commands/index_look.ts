import { readIndexHead } from "../archive/index.ts";
import { nameOf } from "../archive/layout.ts";
import type { SegmentIndexHead } from "../archive/segment_index.ts";
import { type IndexDamage, indexDamage } from "../observe/index_damage.ts";
import { formatLsn } from "../wal/lsn.ts";
import type { SegmentNumber } from "../wal/segment.ts";
import type { ArchiveSurvey } from "./archive_survey.ts";

/** The newest so many segments with an index are looked at: each is a read of some hundred bytes. */
const MAXIMUM_HEADS = 64;
/** Of so many names at most: where there are no indexes, nothing is to be looked at. */
const MAXIMUM_NAMES = 128;

/** Damage that the indexes of the newest timeline's newest segments show, in one line; none: `[]`. */
export async function indexDefects(survey: ArchiveSurvey): Promise<readonly string[]> {
  const { directory: { disk, identity }, segmentSize, runs, newest } = survey;
  if (identity === undefined || newest === undefined) return [];
  const { timeline } = newest.lineage;
  const damages: IndexDamage[] = [];
  let heads = 0;
  let names = 0;
  for (const run of runs.filter((each) => each.timeline === timeline).toReversed()) {
    let after: SegmentIndexHead | undefined;
    for (let number = run.endNumber - 1n; number >= run.firstNumber; number--) {
      if (heads === MAXIMUM_HEADS || names === MAXIMUM_NAMES) break;
      names++;
      const name = nameOf({ timeline, number: number as SegmentNumber }, segmentSize);
      const head = await readIndexHead(disk, { name, identity });
      if (head !== undefined) heads++;
      if (after !== undefined) damages.push(...[indexDamage(after, head) ?? []].flat());
      after = head;
    }
    if (after !== undefined) damages.push(...[indexDamage(after, undefined) ?? []].flat());
  }
  const [first] = damages;
  if (first === undefined) return [];
  const more = damages.length > 1 ? `, and ${damages.length - 1} more segments` : "";
  return [
    `the index of ${first.name} shows damage at ${formatLsn(first.lsn)}: ${first.problem}${more}; ` +
    "walvault verify tells more",
  ];
}
