import type { RecordPlan } from "./wal_builder.ts";

/** Microseconds from 2000-01-01 to some moment of these tests. */
export const NOON = 848_923_200_000_000n;

/** A record that holds nothing but main data. */
function plan(
  kind: { readonly resourceManager: number; readonly info: number; readonly xid?: number },
  mainData: Uint8Array,
): RecordPlan {
  const isShort = mainData.length < 256;
  const body = new Uint8Array((isShort ? 2 : 5) + mainData.length);
  body[0] = isShort ? 255 : 254;
  if (isShort) body[1] = mainData.length;
  else new DataView(body.buffer).setUint32(1, mainData.length, true);
  body.set(mainData, body.length - mainData.length);
  return { totalBytes: 24 + body.length, xid: 0, ...kind, body };
}

/** The end of a transaction. */
export function transactionEnd(
  end: {
    readonly xid: number;
    /** Since 2000-01-01. */
    readonly us: bigint;
    readonly kind?: "commit" | "abort";
    readonly subxids?: readonly number[];
  },
): RecordPlan {
  const { xid, us, kind = "commit", subxids = [] } = end;
  const hasMore = subxids.length > 0;
  const data = new Uint8Array(8 + (hasMore ? 8 + 4 * subxids.length : 0));
  const view = new DataView(data.buffer);
  view.setBigInt64(0, us, true);
  if (hasMore) {
    view.setUint32(8, 2, true);
    view.setUint32(12, subxids.length, true);
    for (const [i, subxid] of subxids.entries()) view.setUint32(16 + 4 * i, subxid, true);
  }
  const info = (kind === "commit" ? 0x00 : 0x20) | (hasMore ? 0x80 : 0);
  return plan({ resourceManager: 1, info, xid }, data);
}

/** A restore point. */
export function restorePoint(name: string, us: bigint): RecordPlan {
  const data = new Uint8Array(72);
  new DataView(data.buffer).setBigInt64(0, us, true);
  data.set(new TextEncoder().encode(name), 8);
  return plan({ resourceManager: 0, info: 0x70 }, data);
}

/** A checkpoint of version 12 or later. */
export function checkpoint(
  { redoLsn, nextXid }: { readonly redoLsn: bigint; readonly nextXid: bigint },
): RecordPlan {
  const data = new Uint8Array(88);
  const view = new DataView(data.buffer);
  view.setBigUint64(0, redoLsn, true);
  view.setUint32(8, 1, true);
  view.setUint32(12, 1, true);
  view.setBigUint64(24, nextXid, true);
  return plan({ resourceManager: 0, info: 0x10 }, data);
}

/** Something else, of that many bytes in all. */
export function filler(totalBytes: number): RecordPlan {
  return { totalBytes };
}
