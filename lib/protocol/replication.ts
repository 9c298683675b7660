import type { Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { StandbyStatus } from "./standby_status.ts";

/** What IDENTIFY_SYSTEM answers. */
export interface SystemIdentity {
  /** Unsigned 64 bits. */
  readonly systemIdentifier: bigint;
  readonly timeline: TimelineId;
  /** The server's flush position (a standby: its replay or receive position). */
  readonly flushLsn: Lsn;
}

/** A physical slot as READ_REPLICATION_SLOT or `pg_replication_slots` tells it. */
export interface SlotPosition {
  readonly kind: "physical" | "logical";
  /** `undefined` while the slot reserves nothing. */
  readonly restartLsn: Lsn | undefined;
  /** `undefined` where the server does not tell it (before 15). */
  readonly restartTimeline: TimelineId | undefined;
}

/** How one START_REPLICATION ended without an error. */
export type StreamEnd =
  /** The timeline ended on the server; go on at `switchLsn` on `nextTimeline`. */
  | { readonly kind: "timeline"; readonly nextTimeline: TimelineId; readonly switchLsn: Lsn }
  /** The server shuts down: it sent all its WAL and closed the copy. */
  | { readonly kind: "shutdown" }
  /** `stop()` was called and the server confirmed. */
  | { readonly kind: "stopped" };

/** Called on the thread that reads the socket, in order; must not block. */
export interface WalStreamHandler {
  /**
   * Some bytes of WAL, contiguous from call to call within one stream.
   *
   * A message may arrive in several calls. `bytes` is valid only during the call.
   * @throws to refuse the stream: the stream then fails with that error.
   */
  onWal(startLsn: Lsn, bytes: Uint8Array): void;
  /** One XLogData or keepalive message has arrived whole: the server's own end of WAL, and whether it waits for a reply. */
  onServerPosition(message: { readonly walEndLsn: Lsn; readonly replyRequested: boolean }): void;
  /** Every byte that the socket had is handed over: a good moment to reply. */
  onDrained(): void;
}

/** The stream's socket, lent to somebody who reads it and answers the server himself. */
export interface SocketLoan {
  readonly descriptor: number;
  /** Ends the loan; `rest` is handed to the stream's handler before anything else. */
  giveBack(state: LoanEnd): void;
}

/** How the loan of a socket ended. */
export interface LoanEnd {
  /** All WAL below it was taken, and is durable. */
  readonly nextLsn: Lsn;
  /** Read already and not dealt with: from `nextLsn` on, and from a message's start. */
  readonly rest: Uint8Array;
  /** A status went out in part only. */
  readonly tornStatus: boolean;
  readonly serverEndLsn: Lsn;
  /** Grows with whatever comes from the server. */
  readonly heardCount: number;
}

/** A running START_REPLICATION. */
export interface WalStream {
  /** Settles when the stream is over; rejects with `ServerError`, `ConnectionError` or what the handler threw. */
  readonly ended: Promise<StreamEnd>;
  /** Never blocks; dropped silently when the stream is over. */
  sendStatus(status: StandbyStatus): void;
  /** Stops reading from the socket; status updates still go out. */
  pause(): void;
  resume(): void;
  /** Lends the socket; `undefined` where there is no plain one, or when something of it is under way just now. */
  lend?(): SocketLoan | undefined;
  /** Says CopyDone; what the server still sends is handed over until it answers with its own. */
  stop(): void;
}
