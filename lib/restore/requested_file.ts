import { parseHistoryFileName, type TimelineId, timelineId } from "../wal/timeline.ts";

/** A file that PostgreSQL asks for while it recovers, as its name tells. */
export type RequestedFile =
  | { readonly kind: "segment"; readonly name: string; readonly timeline: TimelineId }
  | { readonly kind: "history"; readonly name: string; readonly timeline: TimelineId }
  | { readonly kind: "backup label"; readonly name: string };

/** Takes the name apart; `undefined` for one that PostgreSQL never asks for. */
export function parseRequestedName(name: string): RequestedFile | undefined {
  const timeline = parseHistoryFileName(name);
  if (timeline !== undefined) return { kind: "history", name, timeline };
  const match = /^([0-9A-F]{8})[0-9A-F]{16}(\.[0-9A-F]{8}\.backup)?$/.exec(name);
  if (match === null || match[1] === "00000000") return undefined;
  if (match[2] !== undefined) return { kind: "backup label", name };
  return { kind: "segment", name, timeline: timelineId(parseInt(match[1] ?? "", 16)) };
}
