/** Test frames: what a server would send. */

/** A message with its type and length in front. */
export function frame(type: string, body: Uint8Array | readonly number[]): Uint8Array {
  const bytes = new Uint8Array(5 + body.length);
  bytes[0] = type.charCodeAt(0);
  new DataView(bytes.buffer).setUint32(1, 4 + body.length);
  bytes.set(body, 5);
  return bytes;
}

/** CopyData with WAL from `startLsn` on. */
export function xlogData(
  startLsn: bigint,
  wal: Uint8Array,
  walEndLsn = startLsn + BigInt(wal.length),
): Uint8Array {
  const body = new Uint8Array(25 + wal.length);
  const view = new DataView(body.buffer);
  body[0] = 0x77;
  view.setBigUint64(1, startLsn);
  view.setBigUint64(9, walEndLsn);
  view.setBigInt64(17, 812_345_678_901_234n);
  body.set(wal, 25);
  return frame("d", body);
}

/** CopyData with a keepalive. */
export function keepalive(walEndLsn: bigint, replyRequested: number): Uint8Array {
  const body = new Uint8Array(18);
  const view = new DataView(body.buffer);
  body[0] = 0x6b;
  view.setBigUint64(1, walEndLsn);
  view.setBigInt64(9, 812_345_678_901_234n);
  body[17] = replyRequested;
  return frame("d", body);
}

/** Fields of an error, each a letter and a text. */
export function errorFields(...fields: readonly string[]): Uint8Array {
  return new TextEncoder().encode(fields.map((field) => `${field}\0`).join("") + "\0");
}

/** All in one. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** WAL that tells its place. */
export function walBytes(count: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => (i * 7 + seed) & 0xff);
}
