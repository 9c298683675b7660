declare const timelineBrand: unique symbol;

/**
 * A timeline: one branch of a cluster's history, 1 to 2^32-1.
 *
 * @see TimeLineID, src/include/access/xlogdefs.h
 */
export type TimelineId = number & { readonly [timelineBrand]: never };

const MAX_TIMELINE = 0xffff_ffff;
const HISTORY_FILE_NAME = /^([0-9A-F]{8})\.history$/;

/**
 * The timeline of this number.
 *
 * @throws {RangeError} outside 1 to 2^32-1, or when it is not an integer.
 */
export function timelineId(value: number): TimelineId {
  if (!Number.isInteger(value) || value < 1 || value > MAX_TIMELINE) {
    throw new RangeError(`Cannot make a timeline of ${value}: want 1 to 2^32-1`);
  }
  return value as TimelineId;
}

/** The timeline as file names carry it: 8 upper-case hex digits. */
export function formatTimelineId(timeline: TimelineId): string {
  return timeline.toString(16).toUpperCase().padStart(8, "0");
}

/**
 * The name of the timeline's history file: "0000000A.history".
 *
 * @see TLHistoryFileName(), src/include/access/xlog_internal.h
 */
export function historyFileName(timeline: TimelineId): string {
  return `${formatTimelineId(timeline)}.history`;
}

/**
 * Which timeline's history file this is; `undefined` for every other name.
 *
 * Lower-case digits and timeline 0 are other names.
 * @see IsTLHistoryFileName(), src/include/access/xlog_internal.h
 */
export function parseHistoryFileName(name: string): TimelineId | undefined {
  const digits = HISTORY_FILE_NAME.exec(name)?.[1];
  if (digits === undefined || digits === "00000000") return undefined;
  return timelineId(parseInt(digits, 16));
}
