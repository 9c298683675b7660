import { advance, formatLsn, type Lsn, lsn } from "../wal/lsn.ts";
import { type ByteCursor, FRAME_HEADER_BYTES, MESSAGE, messageName, readUint32 } from "./backend_messages.ts";
import { ProtocolError } from "./errors.ts";
import type { WalStreamHandler } from "./replication.ts";

/** Most WAL accepted in one XLogData message; servers send at most 128 kB (`MAX_SEND_SIZE`). */
export const MAX_XLOG_DATA_BYTES = 1 << 20;

const XLOG_DATA = 0x77; // w
const KEEPALIVE = 0x6b; // k
const TYPE_END = FRAME_HEADER_BYTES + 1;
const XLOG_DATA_HEADER_BYTES = 25;
const KEEPALIVE_BYTES = 18;
const XLOG_DATA_END = FRAME_HEADER_BYTES + XLOG_DATA_HEADER_BYTES;
const KEEPALIVE_END = FRAME_HEADER_BYTES + KEEPALIVE_BYTES;
const MAX_LSN = 2n ** 64n - 1n;

/**
 * Decodes the CopyData messages of a physical replication stream, and hands their WAL on without copying it.
 *
 * | byte | XLogData | keepalive |
 * | --- | --- | --- |
 * | 0-4 | `d`, length | `d`, length 22 |
 * | 5 | `w` | `k` |
 * | 6-13 | first LSN of the WAL in this message | server's end of WAL |
 * | 14-21 | server's end of WAL | server's clock |
 * | 22-29 | server's clock | 22: 1 asks for an answer at once |
 * | 30- | WAL | |
 *
 * Only headers are ever buffered. WAL is handed on as it arrives, also when its message is not complete yet.
 */
export class CopyBothDecoder {
  readonly #handler: Pick<WalStreamHandler, "onWal" | "onServerPosition">;
  readonly #header = new Uint8Array(XLOG_DATA_END);
  readonly #view = new DataView(this.#header.buffer);
  /** Bytes of the header that are there, and that are wanted before the next look. */
  #filled = 0;
  #wanted = TYPE_END;
  /** WAL bytes of the current XLogData still to come. */
  #walBytesLeft = 0;
  #walEndLsn: Lsn;
  #nextLsn: Lsn;

  constructor(startLsn: Lsn, handler: Pick<WalStreamHandler, "onWal" | "onServerPosition">) {
    this.#nextLsn = startLsn;
    this.#walEndLsn = startLsn;
    this.#handler = handler;
  }

  /** The first byte of WAL that has not arrived. */
  get nextLsn(): Lsn {
    return this.#nextLsn;
  }

  /** Goes on at a later LSN: what lies between was taken from the socket by somebody else. Only at a boundary. */
  skipTo(nextLsn: Lsn): void {
    this.#nextLsn = nextLsn;
  }

  /** Whether the next byte begins a message. */
  get atBoundary(): boolean {
    return this.#filled === 0 && this.#walBytesLeft === 0;
  }

  /**
   * Decodes until the cursor is used up, or stands at a message that is not CopyData.
   *
   * Views given to the handler are valid during the call only.
   * @throws {ProtocolError} on a gap or an overlap in the WAL, an unknown message, or a length out of range; or what
   * the handler throws. The decoder is of no use after that.
   */
  decode(cursor: ByteCursor): void {
    const { bytes } = cursor;
    while (cursor.index < bytes.length) {
      if (this.#walBytesLeft > 0) {
        this.#takeWal(cursor);
        continue;
      }
      if (this.#filled === 0 && bytes[cursor.index] !== MESSAGE.copyData) return;
      const taken = Math.min(this.#wanted - this.#filled, bytes.length - cursor.index);
      for (let i = 0; i < taken; i++) this.#header[this.#filled + i] = bytes[cursor.index + i]!;
      this.#filled += taken;
      cursor.index += taken;
      if (this.#filled === this.#wanted) this.#takeHeader();
    }
  }

  /** The part of the header that was wanted is complete: its type, then the rest of it. */
  #takeHeader(): void {
    if (this.#filled === TYPE_END) {
      this.#wanted = this.#headerEnd();
      return;
    }
    const type = this.#header[FRAME_HEADER_BYTES];
    this.#filled = 0;
    this.#wanted = TYPE_END;
    if (type === KEEPALIVE) {
      this.#handler.onServerPosition({
        walEndLsn: lsn(this.#view.getBigUint64(6)),
        replyRequested: this.#header[22] !== 0,
      });
      return;
    }
    const startLsn = this.#view.getBigUint64(6);
    if (startLsn !== this.#nextLsn) {
      throw new ProtocolError(
        `Cannot take WAL at ${formatLsn(lsn(startLsn))}: want ${
          formatLsn(this.#nextLsn)
        }, the next byte of the stream`,
      );
    }
    this.#walEndLsn = lsn(this.#view.getBigUint64(14));
    this.#walBytesLeft = this.#bodyBytes() - XLOG_DATA_HEADER_BYTES;
    if (startLsn + BigInt(this.#walBytesLeft) > MAX_LSN) {
      throw new ProtocolError(
        `Cannot take ${this.#walBytesLeft} bytes of WAL at ${
          formatLsn(this.#nextLsn)
        }: that is past the last LSN`,
      );
    }
    if (this.#walBytesLeft === 0) this.#endMessage();
  }

  /** Where the header of this type of message ends. */
  #headerEnd(): number {
    const bodyBytes = this.#bodyBytes();
    const type = this.#header[FRAME_HEADER_BYTES]!;
    if (bodyBytes < 1) {
      throw new ProtocolError(`Cannot decode CopyData: length ${bodyBytes + 4}, want 5 or more`);
    }
    if (type === XLOG_DATA) {
      const longest = XLOG_DATA_HEADER_BYTES + MAX_XLOG_DATA_BYTES;
      if (bodyBytes < XLOG_DATA_HEADER_BYTES || bodyBytes > longest) {
        throw new ProtocolError(
          `Cannot decode XLogData: ${bodyBytes} bytes, want ${XLOG_DATA_HEADER_BYTES} to ${longest}`,
        );
      }
      return XLOG_DATA_END;
    }
    if (type === KEEPALIVE) {
      if (bodyBytes !== KEEPALIVE_BYTES) {
        throw new ProtocolError(`Cannot decode keepalive: ${bodyBytes} bytes, want ${KEEPALIVE_BYTES}`);
      }
      return KEEPALIVE_END;
    }
    throw new ProtocolError(`Cannot decode CopyData: type ${messageName(type)}, want 'w' or 'k'`);
  }

  #bodyBytes(): number {
    return readUint32(this.#header, 1) - 4;
  }

  #takeWal(cursor: ByteCursor): void {
    const startLsn = this.#nextLsn;
    const piece = cursor.bytes.subarray(cursor.index, cursor.index + this.#walBytesLeft);
    cursor.index += piece.length;
    this.#walBytesLeft -= piece.length;
    this.#nextLsn = advance(startLsn, piece.length);
    this.#handler.onWal(startLsn, piece);
    if (this.#walBytesLeft === 0) this.#endMessage();
  }

  #endMessage(): void {
    this.#handler.onServerPosition({ walEndLsn: this.#walEndLsn, replyRequested: false });
  }
}
