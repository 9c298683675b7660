import type { SegmentRun } from "../archive/inventory.ts";
import { segmentNumber, type SegmentSize } from "../wal/segment.ts";
import { type TimelineId, timelineId } from "../wal/timeline.ts";

const SEGMENT = /^[0-9A-F]{24}(\.gz|\.zst|\.lz4)?$/;
const NAME_LENGTH = 24;
const LONGEST_NAME = NAME_LENGTH + ".lz4".length;
const LOG_BYTES = 2 ** 32;

/**
 * The runs of complete segments that names stand for, whatever their form, by timeline and number.
 *
 * For hundreds of thousands of names: nothing is made for one of them but a number.
 */
export function segmentRuns(names: readonly string[], size: SegmentSize): readonly SegmentRun[] {
  const perLog = LOG_BYTES / size;
  const numbersOf = new Map<string, number[]>();
  for (const name of names) {
    if (name.length < NAME_LENGTH || name.length > LONGEST_NAME || !SEGMENT.test(name)) continue;
    const inLog = parseInt(name.slice(16, NAME_LENGTH), 16);
    if (inLog >= perLog) continue;
    const timeline = name.slice(0, 8);
    let numbers = numbersOf.get(timeline);
    if (numbers === undefined) numbersOf.set(timeline, numbers = []);
    // At most 2^44: a number holds it.
    numbers.push(parseInt(name.slice(8, 16), 16) * perLog + inLog);
  }
  numbersOf.delete("00000000");
  return [...numbersOf].sort(([a], [b]) => a < b ? -1 : 1).flatMap(([timeline, numbers]) =>
    runsOf(timelineId(parseInt(timeline, 16)), Float64Array.from(numbers).sort())
  );
}

/** Joins numbers in order, repeated or not. */
function runsOf(timeline: TimelineId, numbers: Float64Array): readonly SegmentRun[] {
  const runs: SegmentRun[] = [];
  for (let i = 0; i < numbers.length;) {
    const first = numbers[i]!;
    let end = first;
    while (i < numbers.length && numbers[i]! <= end) {
      end = numbers[i]! + 1;
      i++;
    }
    runs.push({
      timeline,
      firstNumber: segmentNumber(BigInt(first)),
      endNumber: segmentNumber(BigInt(end)),
    });
  }
  return runs;
}
