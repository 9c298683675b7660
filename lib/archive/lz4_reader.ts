import type { ContentOutlet } from "./content_outlet.ts";
import type { FileBytes } from "./file_bytes.ts";
import { decodeLz4Block } from "./lz4_block.ts";
import {
  decodeLz4BlockHead,
  decodeLz4FrameHeader,
  LZ4_DESCRIPTOR_START_BYTES,
  LZ4_FRAME_MAGIC,
  LZ4_HISTORY_BYTES,
  type Lz4FrameHeader,
} from "./lz4_frame.ts";
import { xxHash32 } from "./xx_hash32.ts";
import { isSkippableMagic } from "./zstd_frame.ts";
import { skipFrame } from "./zstd_reader.ts";

/** Reads frames up to the file's end. */
export async function readLz4(input: FileBytes, outlet: ContentOutlet): Promise<void> {
  const reader = new Lz4Reader(input, outlet);
  while (!outlet.enough && await reader.readFrame());
}

class Lz4Reader {
  /** The content before a block, as far as it may refer to it, and room for its own. */
  #content = new Uint8Array(0);

  constructor(private readonly input: FileBytes, private readonly outlet: ContentOutlet) {}

  /** False at the file's end. */
  async readFrame(): Promise<boolean> {
    const start = await this.input.take(4);
    if (start.length === 0) return false;
    if (start.length < 4) throw this.#cutOff();
    const magic = new DataView(start.buffer, start.byteOffset, 4).getUint32(0, true);
    if (isSkippableMagic(magic)) {
      await skipFrame(this.input, this.outlet);
      return true;
    }
    if (magic !== LZ4_FRAME_MAGIC) {
      throw this.outlet.damaged(`magic 0x${magic.toString(16)}, want 0x${LZ4_FRAME_MAGIC.toString(16)}`);
    }
    const header = await this.#readHeader();
    if ((header.contentBytes ?? 0) > this.outlet.roomBytes) {
      throw this.outlet.damaged(
        `a frame of ${header.contentBytes} bytes, want at most ${this.outlet.roomBytes}`,
      );
    }
    this.outlet.beginFrame({ hasChecksum: header.contentChecksum || header.blockChecksums });
    await this.#readBlocks(header);
    return true;
  }

  async #readHeader(): Promise<Lz4FrameHeader> {
    for (let bytes = LZ4_DESCRIPTOR_START_BYTES;;) {
      const start = await this.#take(bytes);
      const header = this.#judge(() => decodeLz4FrameHeader(start));
      if (header !== undefined) return header;
      this.input.giveBack(bytes);
      bytes++;
    }
  }

  async #readBlocks(header: Lz4FrameHeader): Promise<void> {
    const { maximumBlockBytes, blockChecksums } = header;
    const contentHash = header.contentChecksum ? xxHash32() : undefined;
    const capacity = LZ4_HISTORY_BYTES + maximumBlockBytes;
    if (this.#content.length < capacity) this.#content = new Uint8Array(capacity);
    let contentBytes = 0;
    let historyBytes = 0;
    for (;;) {
      const head = decodeLz4BlockHead(await this.#take(4));
      if (head.bytes === 0) break;
      if (head.bytes > maximumBlockBytes) {
        throw this.outlet.damaged(`a block of ${head.bytes} bytes, want at most ${maximumBlockBytes}`);
      }
      const withChecksum = await this.#take(head.bytes + (blockChecksums ? 4 : 0));
      const block = withChecksum.subarray(0, head.bytes);
      if (blockChecksums) this.#checkHash(block, withChecksum.subarray(head.bytes));
      const end = this.#decode({ block, stored: head.stored, historyBytes, maximumBlockBytes });
      const content = this.#content.subarray(historyBytes, end);
      contentHash?.update(content);
      contentBytes += content.length;
      if (!await this.outlet.give(content)) return;
      historyBytes = header.linked ? this.#keepHistory(end) : 0;
    }
    if (contentHash !== undefined && contentHash.digest() !== readNumber(await this.#take(4))) {
      throw this.outlet.damaged("the checksum of a frame's content is wrong");
    }
    if (header.contentBytes !== undefined && header.contentBytes !== contentBytes) {
      throw this.outlet.damaged(`a frame holds ${contentBytes} bytes, want ${header.contentBytes}`);
    }
  }

  /** Puts a block's content behind the history; returns where it ends. */
  #decode({ block, stored, historyBytes, maximumBlockBytes }: {
    readonly block: Uint8Array;
    readonly stored: boolean;
    readonly historyBytes: number;
    readonly maximumBlockBytes: number;
  }): number {
    if (stored) {
      this.#content.set(block, historyBytes);
      return historyBytes + block.length;
    }
    const target = this.#content.subarray(0, historyBytes + maximumBlockBytes);
    return this.#judge(() => decodeLz4Block(block, target, historyBytes));
  }

  #keepHistory(end: number): number {
    const kept = Math.min(end, LZ4_HISTORY_BYTES);
    this.#content.copyWithin(0, end - kept, end);
    return kept;
  }

  #checkHash(block: Uint8Array, expected: Uint8Array): void {
    const hash = xxHash32();
    hash.update(block);
    if (hash.digest() !== readNumber(expected)) throw this.outlet.damaged("the checksum of a block is wrong");
  }

  async #take(count: number): Promise<Uint8Array> {
    const bytes = await this.input.take(count);
    if (bytes.length < count) throw this.#cutOff();
    return bytes;
  }

  #cutOff(): Error {
    return this.outlet.damaged("it is cut off inside a frame");
  }

  #judge<T>(decode: () => T): T {
    try {
      return decode();
    } catch (cause) {
      throw this.outlet.damaged((cause as Error).message, cause);
    }
  }
}

function readNumber(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
}
