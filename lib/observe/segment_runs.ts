import type { SegmentRun } from "../archive/inventory.ts";
import { segmentNumber, type SegmentSize } from "../wal/segment.ts";
import { timelineId } from "../wal/timeline.ts";

const SEGMENT = /^[0-9A-F]{24}(\.gz|\.zst|\.lz4)?$/;
const NAME_LENGTH = 24;
const LONGEST_NAME = NAME_LENGTH + ".lz4".length;
const LOG_BYTES = 2 ** 32;

/**
 * The runs of complete segments that names stand for, whatever their form, by timeline and number.
 *
 * For hundreds of thousands of names: in the order of their names segments are in their own order, and nothing is made
 * for one of them but its place.
 */
export function segmentRuns(names: readonly string[], size: SegmentSize): readonly SegmentRun[] {
  const perLog = LOG_BYTES / size;
  const segments: string[] = [];
  for (const name of names) {
    if (name.length < NAME_LENGTH || name.length > LONGEST_NAME || !SEGMENT.test(name)) continue;
    segments.push(name.slice(0, NAME_LENGTH));
  }
  segments.sort();
  const runs: SegmentRun[] = [];
  let open: { readonly timeline: number; readonly first: number; end: number } | undefined;
  const close = () => {
    if (open === undefined) return;
    runs.push({
      timeline: timelineId(open.timeline),
      firstNumber: segmentNumber(BigInt(open.first)),
      endNumber: segmentNumber(BigInt(open.end)),
    });
  };
  for (const name of segments) {
    const timeline = parseInt(name.slice(0, 8), 16);
    const inLog = parseInt(name.slice(16), 16);
    // At most 2^44: a number holds it.
    const number = parseInt(name.slice(8, 16), 16) * perLog + inLog;
    if (timeline === 0 || inLog >= perLog) continue;
    if (open?.timeline === timeline && number < open.end) continue;
    if (open?.timeline === timeline && number === open.end) {
      open.end++;
    } else {
      close();
      open = { timeline, first: number, end: number + 1 };
    }
  }
  close();
  return runs;
}
