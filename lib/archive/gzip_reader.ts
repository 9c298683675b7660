import * as zlib from "node:zlib";
import type { ContentOutlet } from "./content_outlet.ts";
import { decodeThrough } from "./decoder_stream.ts";
import type { FileBytes } from "./file_bytes.ts";

/**
 * Reads gzip members up to the file's end.
 *
 * Where a member ends only the decoder knows; it refuses what is cut off, and what follows the last one.
 */
export async function readGzip(input: FileBytes, outlet: ContentOutlet): Promise<void> {
  async function* pieces(): AsyncIterable<Uint8Array> {
    for (;;) {
      const piece = await input.takeSome();
      if (piece.length === 0) return;
      yield piece.slice();
    }
  }
  const { Z_FINISH, Z_SYNC_FLUSH } = zlib.constants;
  const finishFlush = outlet.unfinished ? Z_SYNC_FLUSH : Z_FINISH;
  const decoder = zlib.createGunzip({ chunkSize: 256 * 1024, finishFlush });
  const ends = { pieces: pieces(), give: (content: Uint8Array) => outlet.give(content) };
  const problem = await decodeThrough(decoder, ends);
  if (problem !== undefined) throw outlet.damaged(problem.message, problem);
}
