import { bunBuiltins } from "./bun_builtins.ts";
import type { ContentOutlet } from "./content_outlet.ts";
import { DamagedFileError } from "./damaged_file.ts";
import { decodeThrough } from "./decoder_stream.ts";
import type { FileBytes } from "./file_bytes.ts";
import { isSkippableMagic, ZstdFrameWalker } from "./zstd_frame.ts";
import { zlib } from "./zlib.ts";

/** Up to this much content a frame is decoded in one go: by far the fastest, and memory stays bounded. */
const ONE_GO_BYTES = 16 << 20;
/** No window that a real file has is larger (zstd --ultra -22); more would be memory for nothing. */
const MAXIMUM_WINDOW_BYTES = 128 << 20;
const SLACK_BYTES = 256 * 1024;

/** Reads frames up to the file's end. */
export async function readZstd(input: FileBytes, outlet: ContentOutlet): Promise<void> {
  while (!outlet.enough) {
    const start = await input.take(4);
    if (start.length === 0) return;
    if (start.length < 4) throw outlet.damaged("it ends inside a frame's magic");
    const magic = new DataView(start.buffer, start.byteOffset, 4).getUint32(0, true);
    if (isSkippableMagic(magic)) {
      await skipFrame(input, outlet);
    } else {
      input.giveBack(4);
      await readFrame(input, outlet);
    }
  }
}

/** A skippable frame, from behind its magic on. */
export async function skipFrame(input: FileBytes, outlet: ContentOutlet): Promise<void> {
  const length = await input.take(4);
  const bytes = length.length === 4
    ? new DataView(length.buffer, length.byteOffset, 4).getUint32(0, true)
    : 0;
  if (length.length < 4 || !await input.skip(bytes)) {
    throw outlet.damaged("it ends inside a frame to be skipped");
  }
}

async function readFrame(input: FileBytes, outlet: ContentOutlet): Promise<void> {
  const walker = new ZstdFrameWalker();
  /** The frame's bytes, piece by piece, up to its end and not beyond. */
  const next = async (): Promise<Uint8Array> => {
    const piece = await input.takeSome();
    if (piece.length === 0) throw outlet.damaged("it is cut off inside a frame");
    const belongs = judge(outlet, () => walker.push(piece));
    input.giveBack(piece.length - belongs);
    return piece.slice(0, belongs);
  };
  const pieces = [await next()];
  while (walker.header === undefined) pieces.push(await next());
  const { contentBytes, windowBytes, hasChecksum } = walker.header;
  if ((contentBytes ?? 0) > outlet.roomBytes) {
    throw outlet.damaged(`a frame of ${contentBytes} bytes, want at most ${outlet.roomBytes}`);
  }
  if (windowBytes > Math.max(MAXIMUM_WINDOW_BYTES, contentBytes ?? 0)) {
    throw outlet.damaged(`a window of ${windowBytes} bytes`);
  }
  outlet.beginFrame({ hasChecksum });
  let bytes = pieces[0]!.length;
  // Bytes beyond that are heads of tiny blocks, as many as their writer liked.
  const inOneGo = contentBytes !== undefined && contentBytes <= ONE_GO_BYTES && !outlet.unfinished;
  const mostBytes = inOneGo ? contentBytes + SLACK_BYTES : 0;
  while (!walker.done && bytes <= mostBytes) {
    const piece = await next();
    bytes += piece.length;
    pieces.push(piece);
  }
  if (inOneGo && bytes <= mostBytes) {
    await readInOneGo(concatenate(pieces), contentBytes, outlet);
  } else {
    await readStreaming({ pieces, walker, next }, outlet);
  }
}

async function readInOneGo(frame: Uint8Array, contentBytes: number, outlet: ContentOutlet): Promise<void> {
  const content = judge(outlet, () => decodeFrame(frame, contentBytes));
  if (content.length !== contentBytes) {
    throw outlet.damaged(`a frame holds ${content.length} bytes, want ${contentBytes}`);
  }
  // Not as a Buffer: a `slice` of that would be no copy, and its memory goes in a moment.
  await outlet.give(new Uint8Array(content.buffer, content.byteOffset, content.length));
  free(content);
}

/** Never more than a byte too much, whatever the frame really holds. */
function decodeFrame(frame: Uint8Array, contentBytes: number): Uint8Array {
  const bun = bunBuiltins();
  // It finds no size in a frame whose content is empty.
  if (bun !== undefined && contentBytes > 0) return bun.zstdDecompressSync(frame);
  return zlib().zstdDecompressSync(frame, {
    // Two runtimes differ in what they make of a limit of 0.
    maxOutputLength: contentBytes + 1,
    chunkSize: Math.max(64, contentBytes + 64),
  });
}

/** Shorter content may lie in memory that the runtime shares out. */
const OWN_MEMORY_BYTES = 64 * 1024;

/**
 * Gives memory back at once: the next frame then finds it there, and has not to ask the kernel for pages anew, which
 * takes a third of the time that decoding does.
 */
function free(content: Uint8Array): void {
  if (content.length >= OWN_MEMORY_BYTES && content.buffer instanceof ArrayBuffer) content.buffer.transfer(0);
}

async function readStreaming(
  frame: {
    readonly pieces: readonly Uint8Array[];
    readonly walker: ZstdFrameWalker;
    readonly next: () => Promise<Uint8Array>;
  },
  outlet: ContentOutlet,
): Promise<void> {
  const { walker } = frame;
  const before = outlet.roomBytes;
  async function* pieces(): AsyncIterable<Uint8Array> {
    yield* frame.pieces;
    try {
      while (!walker.done) yield await frame.next();
    } catch (error) {
      // The decoder gives what it has, in silence.
      if (!outlet.unfinished || !(error instanceof DamagedFileError)) throw error;
    }
  }
  const ends = { pieces: pieces(), give: (content: Uint8Array) => outlet.give(content) };
  const problem = await decodeThrough(zlib().createZstdDecompress(), ends);
  if (problem !== undefined) throw outlet.damaged(problem.message, problem);
  if (outlet.enough) return;
  const contentBytes = walker.header?.contentBytes;
  if (contentBytes !== undefined && contentBytes !== before - outlet.roomBytes) {
    throw outlet.damaged(`a frame holds ${before - outlet.roomBytes} bytes, want ${contentBytes}`);
  }
}

/** What a decoder has against the bytes is damage of the file. */
function judge<T>(outlet: ContentOutlet, decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    throw outlet.damaged((cause as Error).message, cause);
  }
}

function concatenate(pieces: readonly Uint8Array[]): Uint8Array {
  const [first] = pieces;
  if (first !== undefined && pieces.length === 1) return first;
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
