import type { SlotPosition, SystemIdentity, WalStream, WalStreamHandler } from "../protocol/replication.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";

export type {
  SlotPosition,
  StreamEnd,
  SystemIdentity,
  WalStream,
  WalStreamHandler,
} from "../protocol/replication.ts";

/** One live replication connection. */
export interface WalSource {
  /** For messages: `host:port` or the socket's path. */
  readonly address: string;
  /** As `server_version_num` counts: 150018, 130005. */
  readonly serverVersion: number;
  identifySystem(): Promise<SystemIdentity>;
  /** `SHOW name` on the replication connection. */
  show(name: string): Promise<string>;
  /**
   * `SHOW name` on a connection of its own to the same address: also while this one streams. Whether the same server
   * answers there its system identifier tells.
   */
  showAfresh(name: string): Promise<{ readonly systemIdentifier: bigint; readonly value: string }>;
  /** `undefined` when there is no such slot. Before PostgreSQL 15 this opens one ordinary SQL connection. */
  readSlot(name: string): Promise<SlotPosition | undefined>;
  /** Physical, with RESERVE_WAL. `ServerError` 42710 when it exists. */
  createSlot(name: string): Promise<void>;
  dropSlot(name: string): Promise<void>;
  /** The history file's bytes; `undefined` when the server does not have it (58P01). */
  timelineHistory(timeline: TimelineId): Promise<Uint8Array | undefined>;
  /**
   * Resolves when the server starts to send, or at once when the start is exactly the timeline's end
   * (`ended` then settles with the switch). Rejects with `ServerError` when the server refuses.
   */
  startReplication(
    options: { readonly slot: string | undefined; readonly startLsn: Lsn; readonly timeline: TimelineId },
    handler: WalStreamHandler,
  ): Promise<WalStream>;
  /** Ends the connection; a running stream fails with `ConnectionError`. Idempotent. */
  close(): Promise<void>;
}
