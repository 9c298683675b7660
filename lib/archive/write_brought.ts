import type { SegmentScan } from "../wal/scanner.ts";
import { BroughtFileError } from "./acceptance.ts";
import type { BroughtSegment } from "./brought_segment.ts";
import type { Compression } from "./compression_format.ts";
import type { DiskFile } from "./disk.ts";
import { firstDifferenceFrom } from "./published.ts";
import { completenessScanner } from "./read_ahead.ts";
import { readThrough, type TakeBytes } from "./segment_file.ts";

/** The kernel's clock stands still between two ticks: what is written in one of them has one time. */
const CLOCK_TICK_MS = 20;

/**
 * Copies a segment into a file, and syncs that.
 *
 * It is read once: while a piece is on its way to the disk, the records in it are looked at; what that proves is whether
 * it is complete.
 */
export async function writeAndScan(found: BroughtSegment, file: DiskFile): Promise<SegmentScan> {
  const { acceptance: { identity, brought, options: { pieces, ahead } }, startLsn, source } = found;
  const { segmentSize } = identity;
  const isAhead = ahead?.startLsn === startLsn && ahead.segmentBytes === Number(segmentSize);
  const scanner = isAhead ? ahead.scanner : completenessScanner({ startLsn, segmentSize });
  const writes: Promise<void>[] = [];
  let position = 0;
  for (let turn = 0; position < segmentSize; turn++) {
    await writes[turn - pieces.length];
    const piece = pieces[turn % pieces.length]!;
    const room = piece.subarray(0, Math.min(piece.length, segmentSize - position));
    const isThere = isAhead && turn === 0;
    const count = isThere ? ahead.bytes : await source.read(room, position);
    if (count === 0) break;
    const bytes = piece.subarray(0, count);
    const isLast = position + count === Number(segmentSize);
    const written = file.write(bytes, position);
    writes.push(isLast ? Promise.all([written, file.sync()]).then(() => {}) : written);
    // One that fails is awaited later, and until then it is nobody's loss.
    writes.at(-1)?.catch(() => {});
    if (!isThere) scanner.push(bytes);
    position += count;
  }
  await Promise.all(writes);
  if (position < segmentSize) {
    throw new BroughtFileError(
      `Cannot archive ${brought.name}: it was cut to ${position} bytes while it was read`,
    );
  }
  const scan = scanner.result();
  await refuseGrowing(found);
  if (provesItself(scan) && !mayGrowUnseen(found)) return scan;
  // Old zeros with new pages behind them look like damage: then the second look finds what the first one missed.
  const copied = { readThrough: (take: TakeBytes) => readThrough(source, take) };
  if (await firstDifferenceFrom(copied, file, segmentSize) !== undefined) throw growingError(found);
  return scan;
}

function provesItself({ end }: SegmentScan): boolean {
  return end === "segment-end" || end === "switch";
}

/** Whether somebody may write to the file without a change of its times. */
function mayGrowUnseen({ state, acceptance: { options: { startedMs } } }: BroughtSegment): boolean {
  return state.modifiedMs > startedMs - CLOCK_TICK_MS;
}

/**
 * A standby gives back a segment that its own receiver is still filling; what is read of that meanwhile may be old in
 * front and new behind.
 *
 * @throws {BroughtFileError} when the file was written to since it was first looked at.
 */
async function refuseGrowing(found: BroughtSegment): Promise<void> {
  const { source, state } = found;
  const now = await source.state();
  const isSame = now.inode === state.inode && now.bytes === state.bytes &&
    now.modifiedMs === state.modifiedMs && now.changedMs === state.changedMs;
  if (!isSame) throw growingError(found);
}

function growingError({ acceptance: { brought } }: BroughtSegment): BroughtFileError {
  return new BroughtFileError(
    `Cannot archive ${brought.name}: it was written to while it was read; the server will ask again`,
  );
}

/** As `writeAndScan`, compressed; what was written is read back and held against the segment byte for byte. */
export async function compressAndScan(
  found: BroughtSegment,
  { file, compression }: { readonly file: DiskFile; readonly compression: Compression },
): Promise<SegmentScan> {
  const { acceptance: { identity, brought, temporary, archive: { disk }, options }, startLsn, source } =
    found;
  const { segmentSize } = identity;
  // Only now: most archives have no compressed files, and a short command loads no more than it needs.
  const { decompress, PieceCompressor } = await import("./compression.ts");
  const scanner = completenessScanner({ startLsn, segmentSize });
  const compressor = new PieceCompressor(compression);
  let end = 0;
  const write = async (pieces: readonly Uint8Array[]) => {
    for (const piece of pieces) {
      await file.write(piece, end);
      end += piece.length;
    }
  };
  // The first one keeps what was read ahead, should the segment turn out to be none to be compressed.
  const buffer = options.pieces[1]!;
  for (let position = 0; position < segmentSize;) {
    const count = await source.read(
      buffer.subarray(0, Math.min(buffer.length, segmentSize - position)),
      position,
    );
    if (count === 0) break;
    scanner.push(buffer.subarray(0, count));
    await write(compressor.push(buffer.subarray(0, count)));
    position += count;
  }
  await write(compressor.end());
  await file.sync();
  const label = `${disk.root}/${temporary}`;
  const written = (take: TakeBytes) =>
    decompress(file, { format: compression.format, label, wantBytes: segmentSize }, take);
  const difference = await firstDifferenceFrom({ readThrough: written }, source, segmentSize);
  await refuseGrowing(found);
  if (difference === undefined) return scanner.result();
  throw new Error(
    `Cannot archive ${brought.name}: compressed it reads back with another byte at ${difference}; it is not published`,
  );
}
