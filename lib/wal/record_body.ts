import { PAGE_BYTES } from "./page.ts";
import { decodePglz } from "./pglz.ts";
import { RECORD_HEADER_BYTES } from "./record.ts";

/** Bytes in a block of a relation: what a full-page image stands for. Other builds (`--with-blocksize`) are not supported. */
export const BLOCK_BYTES = PAGE_BYTES;

/** A file of a relation, whatever its fork. */
export interface RelationFile {
  /** Object identifiers; the database is 0 for relations that all databases share. */
  readonly tablespace: number;
  readonly database: number;
  /** The number in the file's name. */
  readonly relation: number;
}

/** How a full-page image is compressed (`wal_compression`). */
export type ImageCompression = "none" | "pglz" | "lz4" | "zstd" | "unknown";

/** A full-page image: the block as it was, but for its hole. */
export interface BlockImage {
  /** As they stand in the record, compressed or not. */
  readonly bytes: Uint8Array;
  /** Where the block's unused middle begins, and how long it is; it is left out, and all zero. */
  readonly holeOffset: number;
  readonly holeBytes: number;
  readonly compression: ImageCompression;
  /** Recovery puts the image in the block's place; else it is there for checks only. */
  readonly apply: boolean;
  /** The image's flags, whose meaning changed with version 15. */
  readonly flags: number;
}

/** A block that a record changes. */
export interface BlockReference {
  /** 0 to 32, growing within a record. */
  readonly id: number;
  readonly file: RelationFile;
  /** 0 main, 1 free space map, 2 visibility map, 3 init. */
  readonly fork: number;
  /** The block's number in its fork. */
  readonly block: number;
  /** The high four bits: 0x10 has an image, 0x20 has data, 0x40 is made anew, 0x80 is of the file before. */
  readonly flags: number;
  readonly image: BlockImage | undefined;
  /** What the resource manager wants to know about the change of this block. */
  readonly data: Uint8Array;
}

/** A record without its header. All bytes in it are views of the record. */
export interface RecordBody {
  readonly blocks: readonly BlockReference[];
  /** What the resource manager wants to know about the whole change. */
  readonly mainData: Uint8Array;
  /** The replication origin's number. */
  readonly origin: number | undefined;
  /** The top-level transaction, in the first record of a subtransaction (14 on, `wal_level = logical`). */
  readonly topXid: number | undefined;
}

const LAST_BLOCK_ID = 32;
const ID_MAIN_DATA_SHORT = 255;
const ID_MAIN_DATA_LONG = 254;
const ID_ORIGIN = 253;
const ID_TOP_XID = 252;

const FORK_MASK = 0x0f;
const HAS_IMAGE = 0x10;
const HAS_DATA = 0x20;
const SAME_FILE = 0x80;
/** No fork has a higher number. */
const LAST_FORK = 3;

const IMAGE_HAS_HOLE = 0x01;
/** Up to version 14 an image was compressed by pglz or not at all. */
const IMAGE_IS_COMPRESSED_14 = 0x02;
const IMAGE_APPLY_14 = 0x04;
const IMAGE_APPLY = 0x02;
const IMAGE_PGLZ = 0x04;
const IMAGE_LZ4 = 0x08;
const IMAGE_ZSTD = 0x10;
const IMAGE_COMPRESSED = IMAGE_PGLZ | IMAGE_LZ4 | IMAGE_ZSTD;

/** A block's header, before the bytes that it counts have been found. */
interface BlockHeader {
  readonly id: number;
  readonly flags: number;
  readonly dataBytes: number;
  readonly image: (Omit<BlockImage, "bytes"> & { readonly imageBytes: number }) | undefined;
  readonly file: RelationFile;
  readonly block: number;
}

/**
 * Decodes a whole record of that major version into the blocks it changes and its main data.
 *
 * After the record's header come the headers of the parts, then the parts in the same order: of each block its image
 * and its data, and at last the main data.
 *
 * | first byte | header of a part                                                                              |
 * | ---------: | --------------------------------------------------------------------------------------------- |
 * |    0 to 32 | block: 1 fork and flags, 2 data length, then what the flags tell:                             |
 * |            | image: 2 length, 2 hole offset, 1 flags, 2 hole length if there is a hole and it is compressed |
 * |            | file, unless it is that of the block before: 4 tablespace, 4 database, 4 relation             |
 * |            | 4 block number                                                                                |
 * |        252 | 4 top-level transaction (from 14 on)                                                          |
 * |        253 | 2 replication origin                                                                          |
 * |        254 | 4 length of the main data; the last header                                                    |
 * |        255 | 1 length of the main data; the last header                                                    |
 *
 * All little-endian.
 * @throws {SyntaxError} when that is not what the bytes are.
 * @see DecodeXLogRecord(), src/backend/access/transam/xlogreader.c; src/include/access/xlogrecord.h (10 to 18)
 */
export function decodeRecordBody(bytes: Uint8Array, majorVersion: number): RecordBody {
  const input = new BodyInput(bytes);
  const headers: BlockHeader[] = [];
  /** Bytes of all parts whose headers were read. */
  let partBytes = 0;
  let mainDataBytes = 0;
  let origin: number | undefined;
  let topXid: number | undefined;
  while (input.left > partBytes) {
    const id = input.take(1);
    if (id === ID_MAIN_DATA_SHORT || id === ID_MAIN_DATA_LONG) {
      mainDataBytes = input.take(id === ID_MAIN_DATA_SHORT ? 1 : 4);
      partBytes += mainDataBytes;
      break;
    }
    if (id === ID_ORIGIN) origin = input.take(2);
    else if (id === ID_TOP_XID) topXid = input.take(4);
    else if (id <= LAST_BLOCK_ID) {
      const header = decodeBlockHeader(input, { id, before: headers.at(-1), majorVersion });
      headers.push(header);
      partBytes += header.dataBytes + (header.image?.imageBytes ?? 0);
    } else throw refused(`part ${id}, want a block up to ${LAST_BLOCK_ID} or ${ID_TOP_XID} to 255`);
  }
  if (input.left !== partBytes) throw refused(`${input.left} bytes after the headers, want ${partBytes}`);
  const blocks = headers.map(({ id, flags, dataBytes, image, file, block }): BlockReference => ({
    id,
    file,
    fork: flags & FORK_MASK,
    block,
    flags: flags & ~FORK_MASK,
    image: image === undefined ? undefined : imageOf(image, input.takeBytes(image.imageBytes)),
    data: input.takeBytes(dataBytes),
  }));
  return { blocks, mainData: input.takeBytes(mainDataBytes), origin, topXid };
}

function decodeBlockHeader(
  input: BodyInput,
  at: { readonly id: number; readonly before: BlockHeader | undefined; readonly majorVersion: number },
): BlockHeader {
  const { id, before, majorVersion } = at;
  if (before !== undefined && id <= before.id) {
    throw refused(`block ${id} after block ${before.id}, want them to grow`);
  }
  const flags = input.take(1);
  const dataBytes = input.take(2);
  const fork = flags & FORK_MASK;
  if (fork > LAST_FORK) throw refused(`block ${id} of fork ${fork}, want 0 to ${LAST_FORK}`);
  if (((flags & HAS_DATA) !== 0) !== (dataBytes > 0)) {
    throw refused(
      `block ${id} with ${dataBytes} bytes of data, want ${(flags & HAS_DATA) !== 0 ? "some" : "none"}`,
    );
  }
  const image = (flags & HAS_IMAGE) === 0 ? undefined : decodeImageHeader(input, { id, majorVersion });
  const isSameFile = (flags & SAME_FILE) !== 0;
  if (isSameFile && before === undefined) {
    throw refused(`block ${id} of the file of a block before, want one`);
  }
  const file = isSameFile && before !== undefined
    ? before.file
    : { tablespace: input.take(4), database: input.take(4), relation: input.take(4) };
  return { id, flags, dataBytes, image, file, block: input.take(4) };
}

function decodeImageHeader(
  input: BodyInput,
  at: { readonly id: number; readonly majorVersion: number },
): NonNullable<BlockHeader["image"]> {
  const imageBytes = input.take(2);
  const holeOffset = input.take(2);
  const flags = input.take(1);
  const isOld = at.majorVersion < 15;
  const compression = compressionOf(flags, at.majorVersion);
  const hasHole = (flags & IMAGE_HAS_HOLE) !== 0;
  const isCompressed = compression !== "none";
  const holeBytes = isCompressed ? (hasHole ? input.take(2) : 0) : BLOCK_BYTES - imageBytes;
  const isRight = imageBytes > 0 &&
    (hasHole
      ? holeOffset > 0 && holeBytes > 0 && holeOffset + holeBytes <= BLOCK_BYTES && imageBytes < BLOCK_BYTES
      : holeOffset === 0 && (isCompressed ? imageBytes < BLOCK_BYTES : holeBytes === 0));
  if (!isRight) {
    const hole = hasHole ? `a hole of ${holeBytes} at ${holeOffset}` : `no hole (${holeOffset})`;
    throw refused(
      `an image of block ${at.id} of ${imageBytes} bytes, flags ${flags}, ${hole}, want them to fit ${BLOCK_BYTES}`,
    );
  }
  const apply = (flags & (isOld ? IMAGE_APPLY_14 : IMAGE_APPLY)) !== 0;
  return { imageBytes, holeOffset, holeBytes, compression, apply, flags };
}

function compressionOf(flags: number, majorVersion: number): ImageCompression {
  if (majorVersion < 15) return (flags & IMAGE_IS_COMPRESSED_14) !== 0 ? "pglz" : "none";
  switch (flags & IMAGE_COMPRESSED) {
    case 0:
      return "none";
    case IMAGE_PGLZ:
      return "pglz";
    case IMAGE_LZ4:
      return "lz4";
    case IMAGE_ZSTD:
      return "zstd";
    default:
      return "unknown";
  }
}

function imageOf(
  { imageBytes: _, ...rest }: NonNullable<BlockHeader["image"]>,
  bytes: Uint8Array,
): BlockImage {
  return { bytes, ...rest };
}

/** Decodes what one call compressed. `contentBytes` is how long the content must be. Throws when it is not that. */
export type DecodeImage = (bytes: Uint8Array, contentBytes: number) => Uint8Array;

/** For the compressions that this folder can't undo itself. */
export interface ImageDecoders {
  /** One lz4 block. */
  readonly lz4?: DecodeImage;
  /** One zstd frame. */
  readonly zstd?: DecodeImage;
}

/**
 * The whole block that an image stands for, its hole filled with zeros: 8192 bytes of its own.
 *
 * @throws {SyntaxError} when the compressed bytes are wrong.
 * @throws {TypeError} when there is no decoder for them.
 * @see RestoreBlockImage(), src/backend/access/transam/xlogreader.c
 */
export function restoreImage(image: BlockImage, decoders: ImageDecoders = {}): Uint8Array {
  const { holeOffset, holeBytes } = image;
  const contentBytes = BLOCK_BYTES - holeBytes;
  const content = imageContent(image, contentBytes, decoders);
  if (content.length !== contentBytes) {
    throw new SyntaxError(`Cannot restore a full-page image: ${content.length} bytes, want ${contentBytes}`);
  }
  const block = new Uint8Array(BLOCK_BYTES);
  block.set(content.subarray(0, holeOffset));
  block.set(content.subarray(holeOffset), holeOffset + holeBytes);
  return block;
}

function imageContent(image: BlockImage, contentBytes: number, decoders: ImageDecoders): Uint8Array {
  const { bytes, compression } = image;
  if (compression === "none") return bytes;
  if (compression === "pglz") return decodePglz(bytes, contentBytes);
  const decode = compression === "unknown" ? undefined : decoders[compression];
  if (decode === undefined) {
    throw new TypeError(
      `Cannot restore a full-page image: compression ${compression}, want one with a decoder`,
    );
  }
  return decode(bytes, contentBytes);
}

/** Reads a record's numbers one after the other. */
class BodyInput {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = RECORD_HEADER_BYTES;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  take(count: 1 | 2 | 4): number {
    if (this.left < count) throw refused("it ends inside the headers of its parts");
    const at = this.#at;
    this.#at += count;
    if (count === 1) return this.#view.getUint8(at);
    return count === 2 ? this.#view.getUint16(at, true) : this.#view.getUint32(at, true);
  }

  takeBytes(count: number): Uint8Array {
    const at = this.#at;
    this.#at += count;
    return this.#bytes.subarray(at, at + count);
  }
}

function refused(problem: string): SyntaxError {
  return new SyntaxError(`Cannot decode a record: ${problem}`);
}
