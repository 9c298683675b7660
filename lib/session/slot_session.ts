import { advanceSlotQuery } from "../protocol/commands.ts";
import {
  decodeAdvance,
  decodePosition,
  decodeSlots,
  POSITION_QUERY,
  type ServerPosition,
  type ServerRole,
  slotsQuery,
  type SlotView,
} from "../protocol/replication_views.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { Link } from "./link.ts";

/** An ordinary connection that looks at a server's slots and moves them. */
export class SlotSession {
  constructor(private readonly link: Link, private readonly serverVersion: number) {}

  /** What the server is, and how far it is. */
  position(): Promise<ServerPosition> {
    return this.link.query({ text: POSITION_QUERY, doing: "read the position of", decode: decodePosition });
  }

  /** Physical ones only. */
  slots(): Promise<readonly SlotView[]> {
    return this.link.query({
      text: slotsQuery(this.serverVersion),
      doing: "read the slots of",
      decode: decodeSlots,
    });
  }

  /**
   * Moves a slot that nobody uses.
   *
   * @returns where it is then; `undefined` when the server has another role by now, and nothing was done.
   */
  advance(
    name: string,
    target: { readonly toLsn: Lsn; readonly role: ServerRole },
  ): Promise<Lsn | undefined> {
    return this.link.query({
      text: advanceSlotQuery(name, target),
      doing: `move slot ${name} along on`,
      decode: decodeAdvance,
    });
  }

  /** Ends the connection; a running query fails. Idempotent. */
  close(): Promise<void> {
    return this.link.close();
  }
}
