import type { DiskSpace } from "./disk.ts";

/** How much of an archive's file system receiving leaves free. */
export type MinimumFree =
  | { readonly kind: "bytes"; readonly bytes: number }
  /** Of the whole file system; above 0 and below 100. */
  | { readonly kind: "percent"; readonly percent: number }
  /** As much as `minimumFreeBytes` says. */
  | { readonly kind: "default" };

/** What counts where nobody says anything else. */
export const DEFAULT_MINIMUM_FREE: MinimumFree = { kind: "default" };

/** The least that the default asks for, on a file system that is not small. */
const DEFAULT_BYTES = 64 << 20;
/** The most that the default asks for, of the whole file system. */
const DEFAULT_SHARE = 0.05;
/** With a tenth more than the minimum free, or this many segments, reading goes on. */
const RESUME_SEGMENTS = 2;

/** What a minimum is measured by. */
export interface RoomMeasure {
  readonly totalBytes: number;
  readonly segmentBytes: number;
}

/** Bytes that must stay free: by default two segments and at least 64 MiB, but no more than 5 % of the file system. */
export function minimumFreeBytes(
  minimum: MinimumFree,
  { totalBytes, segmentBytes }: RoomMeasure,
): number {
  switch (minimum.kind) {
    case "bytes":
      return minimum.bytes;
    case "percent":
      return Math.floor(totalBytes * minimum.percent / 100);
    case "default":
      return Math.floor(Math.min(totalBytes * DEFAULT_SHARE, Math.max(DEFAULT_BYTES, 2 * segmentBytes)));
  }
}

/**
 * With so much free, reading goes on once it has stopped.
 *
 * When the connection has ended meanwhile, the unfinished segment comes again beside its saved copy, and the next one is
 * laid out: with less room than that, all of it would begin again and again.
 */
export function resumeFreeBytes(minimumBytes: number, { totalBytes, segmentBytes }: RoomMeasure): number {
  const wanted = minimumBytes + Math.max(minimumBytes / 10, RESUME_SEGMENTS * segmentBytes);
  // A file system of a few segments has never so much free: half of what can be.
  return Math.ceil(Math.min(wanted, (minimumBytes + Math.max(minimumBytes, totalBytes)) / 2));
}

/** That there is too little room, and how much would do. */
export interface ShortOfRoom {
  readonly freeBytes: number;
  readonly wantBytes: number;
}

/** Judges the room there is; `wasShort`: it was too little at the last look, and more is wanted now. */
export function judgeRoom(
  { freeBytes, totalBytes }: DiskSpace,
  { minimum, segmentBytes, wasShort }: {
    readonly minimum: MinimumFree;
    readonly segmentBytes: number;
    readonly wasShort: boolean;
  },
): ShortOfRoom | undefined {
  const measure = { totalBytes, segmentBytes };
  const minimumBytes = minimumFreeBytes(minimum, measure);
  if (minimumBytes === 0) return undefined;
  const resumeBytes = resumeFreeBytes(minimumBytes, measure);
  return freeBytes >= (wasShort ? resumeBytes : minimumBytes)
    ? undefined
    : { freeBytes, wantBytes: resumeBytes };
}
