import type { EncodeLz4Block } from "./lz4_block.ts";
import type { RunningHash } from "./xx_hash32.ts";
import { xxHash32 } from "./xx_hash32.ts";

/** First bytes of a frame, as a little-endian number. */
export const LZ4_FRAME_MAGIC = 0x184d2204;

/** Blocks that refer to earlier ones reach back so far. */
export const LZ4_HISTORY_BYTES = 64 * 1024;

/** Bytes of the part of the header that tells how long the rest of it is, the magic not counted. */
export const LZ4_DESCRIPTOR_START_BYTES = 2;

/** What the header of an lz4 frame says about it. */
export interface Lz4FrameHeader {
  /** Bytes of the header after the magic. */
  readonly headerBytes: number;
  /** No block has more content. */
  readonly maximumBlockBytes: number;
  /** Blocks refer to the content of those before them. */
  readonly linked: boolean;
  readonly blockChecksums: boolean;
  readonly contentChecksum: boolean;
  readonly contentBytes: number | undefined;
}

/**
 * Decodes the header of an lz4 frame, from behind the magic on; `undefined` means: feed me more (at most 15 bytes).
 *
 * | byte | bytes | field                                                                                        |
 * | ---: | ----: | -------------------------------------------------------------------------------------------- |
 * |    0 |     1 | version 01, independent, block checksums, content size, content checksum, 0, dictionary (1 bit each) |
 * |    1 |     1 | 0, maximum size of a block (3 bits: 4 to 7), 0000                                            |
 * |    2 |   0/8 | content size                                                                                 |
 * |      |   0/4 | dictionary id                                                                                |
 * |      |     1 | second byte of the xxHash32 of all before                                                    |
 *
 * @throws {SyntaxError} when these bytes are no header, or ask for a dictionary.
 * @see https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
 */
export function decodeLz4FrameHeader(bytes: Uint8Array): Lz4FrameHeader | undefined {
  const refuse = (problem: string) => new SyntaxError(`Cannot decode an lz4 frame: ${problem}`);
  const [flags, blockSize] = bytes;
  if (flags === undefined || blockSize === undefined) return undefined;
  if (flags >>> 6 !== 1) throw refuse(`version ${flags >>> 6}, want 1`);
  if ((flags & 0x02) !== 0 || (blockSize & 0x8f) !== 0) throw refuse("reserved bits are set");
  if ((flags & 0x01) !== 0) throw refuse("it needs a dictionary");
  const sizeCode = blockSize >>> 4;
  if (sizeCode < 4) throw refuse(`block size ${sizeCode}, want 4 to 7`);
  const hasSize = (flags & 0x08) !== 0;
  const headerBytes = LZ4_DESCRIPTOR_START_BYTES + (hasSize ? 8 : 0) + 1;
  if (bytes.length < headerBytes) return undefined;
  const hash = xxHash32();
  hash.update(bytes.subarray(0, headerBytes - 1));
  if (bytes[headerBytes - 1] !== (hash.digest() >>> 8 & 255)) {
    throw refuse("the checksum of its header is wrong");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    headerBytes,
    maximumBlockBytes: 1 << (8 + 2 * sizeCode),
    linked: (flags & 0x20) === 0,
    blockChecksums: (flags & 0x10) !== 0,
    contentChecksum: (flags & 0x04) !== 0,
    contentBytes: hasSize ? Number(view.getBigUint64(2, true)) : undefined,
  };
}

/** The head of each block: how many bytes follow, and whether they are the content itself. */
export interface Lz4BlockHead {
  /** 0: the frame has no more blocks. */
  readonly bytes: number;
  readonly stored: boolean;
}

/** Decodes the four bytes before a block. */
export function decodeLz4BlockHead(bytes: Uint8Array): Lz4BlockHead {
  const word = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  return { bytes: word & 0x7fffffff, stored: word >>> 31 === 1 };
}

/** Tools for `lz4FrameEncoder`, passed in because its source text travels alone. */
export interface Lz4FrameTools {
  readonly hash: () => RunningHash;
  readonly encodeBlock: EncodeLz4Block;
}

/**
 * Makes one frame of one block of at most 1 MiB, with its content size and all checksums.
 *
 * Its source text runs in the compression thread too, so it uses nothing but its parameters and globals.
 */
export function encodeLz4Frame(content: Uint8Array, { hash, encodeBlock }: Lz4FrameTools): Uint8Array {
  const HEADER_BYTES = 15;
  const MAXIMUM_BLOCK_BYTES = 1 << 20;
  if (content.length > MAXIMUM_BLOCK_BYTES) {
    throw new RangeError(
      `Cannot make an lz4 block of ${content.length} bytes: want at most ${MAXIMUM_BLOCK_BYTES}`,
    );
  }
  const hashOf = (bytes: Uint8Array): number => {
    const running = hash();
    running.update(bytes);
    return running.digest();
  };
  const frame = new Uint8Array(HEADER_BYTES + 4 + content.length + 12);
  const view = new DataView(frame.buffer);
  view.setUint32(0, 0x184d2204, true);
  // Version 1, independent blocks, block checksums, content size, content checksum.
  frame[4] = 0x7c;
  // Blocks of up to 1 MiB.
  frame[5] = 0x60;
  view.setBigUint64(6, BigInt(content.length), true);
  frame[14] = hashOf(frame.subarray(4, 14)) >>> 8 & 255;
  let end = HEADER_BYTES;
  if (content.length > 0) {
    const start = end + 4;
    // Only what is shorter than the content is worth it.
    const encoded = encodeBlock(content, frame.subarray(start, start + content.length - 1));
    if (encoded === undefined) frame.set(content, start);
    const bytes = encoded ?? content.length;
    view.setUint32(end, encoded === undefined ? (bytes | 0x80000000) >>> 0 : bytes, true);
    end = start + bytes;
    view.setUint32(end, hashOf(frame.subarray(start, end)), true);
    end += 4;
  }
  view.setUint32(end, 0, true);
  view.setUint32(end + 4, hashOf(content), true);
  return frame.subarray(0, end + 8);
}
