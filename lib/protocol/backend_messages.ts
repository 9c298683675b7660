import { ProtocolError, type ServerMessage } from "./errors.ts";

/** The first byte of each message that a server sends and we know. */
export const MESSAGE = {
  authentication: 0x52, // R
  backendKeyData: 0x4b, // K
  commandComplete: 0x43, // C
  copyBothResponse: 0x57, // W
  copyData: 0x64, // d
  copyDone: 0x63, // c
  dataRow: 0x44, // D
  emptyQuery: 0x49, // I
  error: 0x45, // E
  notice: 0x4e, // N
  notification: 0x41, // A
  parameterStatus: 0x53, // S
  readyForQuery: 0x5a, // Z
  rowDescription: 0x54, // T
} as const;

/** Type byte and length word in front of each message. */
export const FRAME_HEADER_BYTES = 5;

/** Longest message accepted outside of streamed WAL; a history file or an error text is the longest that is real. */
export const MAX_MESSAGE_BYTES = 1 << 20;

/** Bytes from the socket, and how far they are used up. */
export interface ByteCursor {
  readonly bytes: Uint8Array;
  index: number;
}

/** One whole message. */
export interface BackendMessage {
  readonly type: number;
  /** With its header; `body` is what follows it. Both may be views of the cursor's bytes. */
  readonly frame: Uint8Array;
  readonly body: Uint8Array;
}

/**
 * Cuts the server's bytes into messages, wherever the network cut them.
 *
 * | byte | |
 * | --- | --- |
 * | 0 | type |
 * | 1-4 | length, big-endian, with these four bytes and without the type |
 */
export class BackendSplitter {
  readonly #header = new Uint8Array(FRAME_HEADER_BYTES);
  /** The message being put together: the header first, then the whole frame. */
  #frame = this.#header;
  #filled = 0;

  /** Whether the next byte begins a message. */
  get atBoundary(): boolean {
    return this.#filled === 0;
  }

  /**
   * The next whole message, or `undefined` when the cursor is used up before its end.
   *
   * The message's bytes are valid as long as the cursor's are: a message that came in one piece is not copied.
   * @throws {ProtocolError} when the length is out of range.
   */
  next(cursor: ByteCursor): BackendMessage | undefined {
    if (this.#filled === 0 && cursor.bytes.length - cursor.index >= FRAME_HEADER_BYTES) {
      const endIndex = cursor.index + frameBytes(cursor.bytes, cursor.index);
      if (endIndex <= cursor.bytes.length) {
        const frame = cursor.bytes.subarray(cursor.index, endIndex);
        cursor.index = endIndex;
        return messageOf(frame);
      }
    }
    if (this.#filled < FRAME_HEADER_BYTES) {
      if (!this.#fill(cursor)) return undefined;
      this.#frame = new Uint8Array(frameBytes(this.#header, 0));
      this.#frame.set(this.#header);
    }
    if (!this.#fill(cursor)) return undefined;
    const frame = this.#frame;
    this.#frame = this.#header;
    this.#filled = 0;
    return messageOf(frame);
  }

  /** Copies what there is into the frame; whether that filled it. */
  #fill(cursor: ByteCursor): boolean {
    const taken = cursor.bytes.subarray(cursor.index, cursor.index + this.#frame.length - this.#filled);
    this.#frame.set(taken, this.#filled);
    this.#filled += taken.length;
    cursor.index += taken.length;
    return this.#filled === this.#frame.length;
  }
}

function messageOf(frame: Uint8Array): BackendMessage {
  return { type: frame[0]!, frame, body: frame.subarray(FRAME_HEADER_BYTES) };
}

/** Bytes of the frame that begins at `index`, header included. */
function frameBytes(bytes: Uint8Array, index: number): number {
  const length = readUint32(bytes, index + 1);
  if (length < 4 || length > MAX_MESSAGE_BYTES) {
    throw new ProtocolError(
      `Cannot decode message ${messageName(bytes[index]!)}: length ${length}, want 4 to ${MAX_MESSAGE_BYTES}`,
    );
  }
  return 1 + length;
}

/** Big-endian; `index` and the three bytes after it must exist. */
export function readUint32(bytes: Uint8Array, index: number): number {
  return ((bytes[index]! << 24) | (bytes[index + 1]! << 16) | (bytes[index + 2]! << 8) |
    bytes[index + 3]!) >>> 0;
}

/** A type byte for an error text: `'W'`, or `0x07` when it is not printable. */
export function messageName(type: number): string {
  return type > 0x20 && type < 0x7f
    ? `'${String.fromCharCode(type)}'`
    : `0x${type.toString(16).padStart(2, "0")}`;
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * Text with a zero byte at its end.
 *
 * @throws {ProtocolError} when the zero is missing.
 */
function decodeCString(
  body: Uint8Array,
  index: number,
): { readonly text: string; readonly endIndex: number } {
  const zeroIndex = body.indexOf(0, index);
  if (zeroIndex < 0) throw new ProtocolError("Cannot decode text: it has no end, want a zero byte");
  return { text: utf8.decode(body.subarray(index, zeroIndex)), endIndex: zeroIndex + 1 };
}

/**
 * The body of an ErrorResponse or NoticeResponse.
 *
 * @throws {ProtocolError} when a field has no end, or severity, state or message is missing.
 */
export function decodeServerMessage(body: Uint8Array): ServerMessage {
  const fields = new Map<string, string>();
  let index = 0;
  while (index < body.length && body[index] !== 0) {
    const { text, endIndex } = decodeCString(body, index + 1);
    fields.set(String.fromCharCode(body[index]!), text);
    index = endIndex;
  }
  if (index !== body.length - 1) {
    throw new ProtocolError(`Cannot decode error fields: they end at byte ${index} of ${body.length}`);
  }
  const severity = fields.get("V") ?? fields.get("S");
  const sqlState = fields.get("C");
  const message = fields.get("M");
  if (severity === undefined || sqlState === undefined || message === undefined) {
    throw new ProtocolError("Cannot decode error fields: severity, SQLSTATE or message is missing");
  }
  return { severity, sqlState, message, detail: fields.get("D"), hint: fields.get("H"), fields };
}

/**
 * The body of a ParameterStatus.
 *
 * @throws {ProtocolError} when it is not two texts.
 */
export function decodeParameterStatus(body: Uint8Array): { readonly name: string; readonly value: string } {
  const name = decodeCString(body, 0);
  const value = decodeCString(body, name.endIndex);
  if (value.endIndex !== body.length) {
    throw new ProtocolError(
      `Cannot decode parameter "${name.text}": ${body.length - value.endIndex} bytes too many`,
    );
  }
  return { name: name.text, value: value.text };
}

/** Table, column number, type, its size and modifier, and format, after each column's name. */
const COLUMN_BYTES = 18;

/**
 * How many columns a RowDescription has.
 *
 * @throws {ProtocolError} when it is not exactly that many; the driver would look for the end for ever (postgres 3.4.9).
 */
export function decodeColumnCount(body: Uint8Array): number {
  const count = readCount(body);
  let index = 2;
  for (let i = 0; i < count; i++) index = decodeCString(body, index).endIndex + COLUMN_BYTES;
  if (index !== body.length) {
    throw new ProtocolError(`Cannot decode row description: ${body.length} bytes, want ${index}`);
  }
  return count;
}

/**
 * Checks that a DataRow has this many values, and nothing else.
 *
 * @throws {ProtocolError} when it has not.
 */
export function checkDataRow(body: Uint8Array, columnCount: number): void {
  const count = readCount(body);
  if (count !== columnCount) {
    throw new ProtocolError(`Cannot decode row: ${count} values, want ${columnCount}`);
  }
  let index = 2;
  for (let i = 0; i < count; i++) {
    if (index + 4 > body.length) {
      throw new ProtocolError(`Cannot decode row: value ${i + 1} of ${count} is missing`);
    }
    const bytes = readUint32(body, index);
    index += bytes === NULL_BYTES ? 4 : 4 + bytes;
  }
  if (index !== body.length) {
    throw new ProtocolError(`Cannot decode row: ${body.length} bytes, want ${index}`);
  }
}

/** -1: the value is NULL. */
const NULL_BYTES = 0xffff_ffff;

function readCount(body: Uint8Array): number {
  if (body.length < 2) throw new ProtocolError("Cannot decode row: it is too short");
  return body[0]! << 8 | body[1]!;
}
