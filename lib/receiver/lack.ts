import { ConnectionError, ServerError } from "../protocol/errors.ts";
import type { SegmentNumber } from "../wal/segment.ts";
import type { SegmentAnswer } from "./gap_survey.ts";

/**
 * A host that does not answer may have what all others lack; for so long it is waited for.
 *
 * No longer, or a dead host in the connection string would keep away the newest WAL for ever.
 */
export const GAP_PATIENCE_MS = 60_000;

/**
 * What a round found out so long ago counts no more: nobody was asked meanwhile, as there was no room or a server
 * streamed. More than the longest wait between two tries.
 */
export const LONGEST_PAUSE_MS = 45_000;

/** What one host answered in a round over all of them, or why it did not. */
export type HostReply<T> =
  | { readonly address: string; readonly answer: T }
  | { readonly address: string; readonly error: unknown };

/** When a round was, and what its healing comes to. */
export interface Round {
  /** When it ended. Monotonic. */
  readonly nowMs: number;
  /** Grows with each segment that is here of those that were asked for, and with every byte of one under way. */
  readonly brought: number;
  /** Something is being brought in, and goes on. */
  readonly isHealing: boolean;
}

/** A segment that is missing at one host at least, from round to round. */
export interface Lack {
  /** What every host said, as far as it counts; the same as long as nothing changes. */
  readonly picture: string;
  /** Since when it is the same. Monotonic. */
  readonly sinceMs: number;
}

/** What a round over all hosts comes to. */
export interface Judgement {
  /** Whether the segment may be given up for now. */
  readonly mayPass: boolean;
  /** To be given to the judgement of the next round, if that asks for the same segment. */
  readonly lack: Lack | undefined;
  /** The first later segment that one of them has. */
  readonly firstNumber: SegmentNumber | undefined;
}

/**
 * Judges one round, in which every host was asked for the same segment.
 *
 * It may be given up when every host says that it has removed it, and nobody else is bringing it. While one of them says
 * anything else, all must have said the same for `GAP_PATIENCE_MS` without a break. While one says that it has it, or
 * somebody brings it, nothing may have been brought in for so long either.
 *
 * @param before what the last round gave, `undefined` when that asked for another segment.
 */
export function judgeRound(
  replies: readonly HostReply<SegmentAnswer>[],
  before: Lack | undefined,
  { nowMs, brought, isHealing }: Round,
): Judgement {
  const lacking = replies.flatMap((reply) =>
    "answer" in reply && reply.answer.kind === "lacks" ? [reply.answer] : []
  );
  // Nobody says any more that it is missing.
  if (lacking.length === 0) return { mayPass: false, lack: undefined, firstNumber: undefined };
  const isThere = isHealing || replies.some((reply) => "answer" in reply && reply.answer.kind === "has");
  const picture = [
    ...replies.map((reply) => `${reply.address} ${kindOf(reply)}`),
    ...(isThere ? [`${brought} brought`] : []),
  ].join("\n");
  const lack = before?.picture === picture ? before : { picture, sinceMs: nowMs };
  const mayPass = !isHealing && lacking.length === replies.length || nowMs - lack.sinceMs >= GAP_PATIENCE_MS;
  return { mayPass, lack, firstNumber: firstBehind(replies) };
}

/** The first later segment that one of those has who lack this one. */
export function firstBehind(replies: readonly HostReply<SegmentAnswer>[]): SegmentNumber | undefined {
  return replies.reduce<SegmentNumber | undefined>((lowest, reply) => {
    const own = "answer" in reply && reply.answer.kind === "lacks" ? reply.answer.firstNumber : undefined;
    return lowest === undefined || own !== undefined && own < lowest ? own : lowest;
  }, undefined);
}

/** What counts of a reply. That a host is away is one thing, however its network says it. */
function kindOf(reply: HostReply<SegmentAnswer>): string {
  if ("answer" in reply) return reply.answer.kind;
  const { error } = reply;
  if (error instanceof ServerError) return error.sqlState;
  if (error instanceof ConnectionError) return "away";
  return error instanceof Error ? error.name : String(error);
}
