/** First bytes of a frame, as a little-endian number. */
export const ZSTD_FRAME_MAGIC = 0xfd2fb528;
/** Frames with these and the 15 numbers after it hold nothing of the content; lz4 has the same. */
const SKIPPABLE_MAGIC = 0x184d2a50;

/** Whether a frame's magic says that it is to be skipped: after it stands its length, as 32-bit number. */
export function isSkippableMagic(magic: number): boolean {
  return (magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC;
}

/** What the header of a zstd frame says about it. */
export interface ZstdFrameHeader {
  /** With the magic. */
  readonly headerBytes: number;
  readonly contentBytes: number | undefined;
  /** The decoder must keep so much content, to refer to it. */
  readonly windowBytes: number;
  readonly hasChecksum: boolean;
}

/**
 * Decodes the header of a zstd frame, with its magic; `undefined` means: feed me more (at most 18 bytes).
 *
 * | byte | bytes   | field                                                                                |
 * | ---: | ------: | ------------------------------------------------------------------------------------ |
 * |    0 |       4 | magic                                                                                |
 * |    4 |       1 | length of the content size (2 bits), single segment, -, 0, checksum, dictionary (2)  |
 * |    5 |     0/1 | window: exponent (5 bits), mantissa (3); absent in a single segment                  |
 * |      |   0/1/2/4 | dictionary id                                                                      |
 * |      | 0/1/2/4/8 | content size; of 2 bytes: less 256                                                 |
 *
 * @throws {SyntaxError} when these bytes are no header, or ask for a dictionary.
 * @see RFC 8878, 3.1.1.1
 */
export function decodeZstdFrameHeader(bytes: Uint8Array): ZstdFrameHeader | undefined {
  const refuse = (problem: string) => new SyntaxError(`Cannot decode a zstd frame: ${problem}`);
  if (bytes.length < 5) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== ZSTD_FRAME_MAGIC) throw refuse("its magic is wrong");
  const flags = bytes[4]!;
  if ((flags & 0x08) !== 0) throw refuse("a reserved bit is set");
  const singleSegment = (flags & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3]!;
  const sizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][flags >>> 6]!;
  let at = singleSegment ? 5 : 6;
  const headerBytes = at + dictionaryBytes + sizeBytes;
  if (bytes.length < headerBytes) return undefined;
  if (bytes.subarray(at, at + dictionaryBytes).some((byte) => byte !== 0)) {
    throw refuse("it needs a dictionary");
  }
  at += dictionaryBytes;
  const contentBytes = sizeBytes === 0
    ? undefined
    : sizeBytes === 1
    ? view.getUint8(at)
    : sizeBytes === 2
    ? view.getUint16(at, true) + 256
    : sizeBytes === 4
    ? view.getUint32(at, true)
    : Number(view.getBigUint64(at, true));
  const window = bytes[5]!;
  const base = 2 ** (10 + (window >>> 3));
  return {
    headerBytes,
    contentBytes,
    windowBytes: singleSegment ? contentBytes ?? 0 : base + base / 8 * (window & 7),
    hasChecksum: (flags & 0x04) !== 0,
  };
}

const MAXIMUM_HEADER_BYTES = 18;
const BLOCK_HEAD_BYTES = 3;
const CHECKSUM_BYTES = 4;
/** No block is longer, compressed or not. */
const MAXIMUM_BLOCK_BYTES = 128 * 1024;

/**
 * Finds the end of one zstd frame, from its bytes cut anywhere.
 *
 * The runtimes' decoders take a frame that is cut off for a whole one, in silence; this one does not. It looks at the
 * frame's header and at the head of each block, at nothing else: what is in the blocks is the decoder's to judge.
 * @see RFC 8878, 3.1.1
 */
export class ZstdFrameWalker {
  #header: ZstdFrameHeader | undefined;
  readonly #head = new Uint8Array(MAXIMUM_HEADER_BYTES);
  #headBytes = 0;
  /** Bytes of a block, or of the checksum, still to come. */
  #skipBytes = 0;
  #lastBlockSeen = false;
  #done = false;

  /** `undefined` until it has come. */
  get header(): ZstdFrameHeader | undefined {
    return this.#header;
  }

  /** True when the frame has come to its last byte. */
  get done(): boolean {
    return this.#done;
  }

  /**
   * Takes the next bytes; returns how many of them belong to this frame: all, until it is done.
   *
   * @throws {SyntaxError} when these bytes are no frame.
   */
  push(bytes: Uint8Array): number {
    let at = 0;
    while (!this.#done && at < bytes.length) {
      if (this.#skipBytes > 0) {
        const count = Math.min(this.#skipBytes, bytes.length - at);
        this.#skipBytes -= count;
        at += count;
        if (this.#skipBytes === 0 && this.#lastBlockSeen) this.#done = true;
      } else if (this.#header === undefined) {
        at = this.#takeHeader(bytes, at);
      } else {
        this.#head[this.#headBytes++] = bytes[at++]!;
        if (this.#headBytes === BLOCK_HEAD_BYTES) this.#takeBlockHead(this.#header);
      }
    }
    return at;
  }

  #takeHeader(bytes: Uint8Array, from: number): number {
    const had = this.#headBytes;
    const more = bytes.subarray(from, from + MAXIMUM_HEADER_BYTES - had);
    this.#head.set(more, had);
    this.#headBytes += more.length;
    this.#header = decodeZstdFrameHeader(this.#head.subarray(0, this.#headBytes));
    if (this.#header === undefined) return from + more.length;
    this.#headBytes = 0;
    return from + this.#header.headerBytes - had;
  }

  #takeBlockHead(header: ZstdFrameHeader): void {
    const word = this.#head[0]! | this.#head[1]! << 8 | this.#head[2]! << 16;
    const kind = word >>> 1 & 3;
    const size = word >>> 3;
    if (kind === 3) throw new SyntaxError("Cannot decode a zstd frame: a block is of the reserved kind");
    if (size > MAXIMUM_BLOCK_BYTES) {
      throw new SyntaxError(`Cannot decode a zstd frame: a block of ${size} bytes, want at most 128 KiB`);
    }
    this.#headBytes = 0;
    this.#lastBlockSeen = (word & 1) === 1;
    // A block of one repeated byte has only that one.
    this.#skipBytes = kind === 1 ? 1 : size;
    if (this.#lastBlockSeen && header.hasChecksum) this.#skipBytes += CHECKSUM_BYTES;
    if (this.#lastBlockSeen && this.#skipBytes === 0) this.#done = true;
  }
}
