/** Reads the numbers of a record's main data one after the other; what is not there is an error. */
export class MainDataInput {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #name: string;
  #at = 0;

  /** `name` is the record's, for messages. */
  constructor(bytes: Uint8Array, name: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#name = name;
  }

  /** @throws {SyntaxError} when the bytes end before. */
  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** @throws {SyntaxError} when the bytes end before. */
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** @throws {SyntaxError} when the bytes end before. */
  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true);
  }

  /** @throws {SyntaxError} when the bytes end before. */
  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  /**
   * Goes on `count` times `bytes` further.
   *
   * @throws {SyntaxError} when the bytes end before.
   */
  skip(count: number, bytes = 1): void {
    this.#take(count * bytes);
  }

  /**
   * That many 32-bit numbers, in memory of their own.
   *
   * @throws {SyntaxError} when the bytes end before.
   */
  u32s(count: number): Uint32Array {
    const start = this.#take(count * 4);
    const numbers = new Uint32Array(count);
    for (let i = 0; i < count; i++) numbers[i] = this.#view.getUint32(start + 4 * i, true);
    return numbers;
  }

  /**
   * Text up to a zero byte, which is taken too.
   *
   * Bytes that are no UTF-8, as of databases in another encoding, become U+FFFD.
   * @throws {SyntaxError} when no zero byte is there.
   */
  text(): string {
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) throw this.#short();
    const text = new TextDecoder().decode(this.#bytes.subarray(this.#at, end));
    this.#at = end + 1;
    return text;
  }

  #take(count: number): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) throw this.#short();
    this.#at = at + count;
    return at;
  }

  #short(): SyntaxError {
    return new SyntaxError(
      `Cannot decode ${this.#name}: its main data ends after ${this.#bytes.length} bytes`,
    );
  }
}
