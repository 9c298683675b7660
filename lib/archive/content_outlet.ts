import { ContentProof } from "./content_proof.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { TakeBytes } from "./segment_file.ts";

/** What is read, and how much of it there must be. */
export interface ContentLimits {
  /** For messages: the path. */
  readonly label: string;
  readonly wantBytes: number;
  /** The file may end anywhere: what can be read of it is read. */
  readonly unfinished?: boolean;
}

/** Where a reader of compressed files puts the content: it is counted, and proven where the file has no checksum. */
export class ContentOutlet {
  #bytes = 0;
  #enough = false;
  #proof: ContentProof | undefined;

  constructor(private readonly limits: ContentLimits, private readonly take: TakeBytes) {}

  /** Bytes that may still come. */
  get roomBytes(): number {
    return this.limits.wantBytes - this.#bytes;
  }

  get unfinished(): boolean {
    return this.limits.unfinished === true;
  }

  /** True when whoever takes the content wants no more of it. */
  get enough(): boolean {
    return this.#enough;
  }

  damaged(problem: string, cause?: unknown): DamagedFileError {
    const options = cause === undefined ? undefined : { cause };
    return new DamagedFileError(`Cannot read "${this.limits.label}": ${problem}`, options);
  }

  /** Tells whether the next frame vouches for its content; from a first one that does not, the records must. */
  beginFrame(frame: { readonly hasChecksum: boolean }): void {
    if (frame.hasChecksum || this.#proof !== undefined || this.unfinished) return;
    if (this.#bytes > 0) throw this.damaged("a frame without a checksum follows one with it");
    this.#proof = new ContentProof(this.limits.wantBytes);
  }

  /** Hands over the next bytes; false when no more are wanted. */
  async give(bytes: Uint8Array): Promise<boolean> {
    if (bytes.length === 0 || this.#enough) return !this.#enough;
    if (bytes.length > this.roomBytes) {
      throw this.damaged(`it holds more than ${this.limits.wantBytes} bytes`);
    }
    this.#proof?.push(bytes);
    const position = this.#bytes;
    this.#bytes += bytes.length;
    this.#enough = await this.take(bytes, position) === "enough";
    return !this.#enough;
  }

  /** At the file's end: was it all, and is it proven? */
  finish(): void {
    if (this.#enough) return;
    if (this.roomBytes > 0) {
      throw this.damaged(`it holds ${this.#bytes} bytes, want ${this.limits.wantBytes}`);
    }
    const problem = this.#proof?.problem();
    if (problem !== undefined) throw this.damaged(`it has no checksum, and ${problem}`);
  }
}
