/** Writes numbers one after the other, little-endian; the caller sees to it that there is room. */
export class ByteWriter {
  readonly #view: DataView;
  #at = 0;

  constructor(private readonly room: Uint8Array) {
    this.#view = new DataView(room.buffer, room.byteOffset, room.byteLength);
  }

  u8(value: number): void {
    this.#view.setUint8(this.#at, value);
    this.#at += 1;
  }

  u16(value: number): void {
    this.#view.setUint16(this.#at, value, true);
    this.#at += 2;
  }

  u32(value: number): void {
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
  }

  u64(value: bigint): void {
    this.#view.setBigUint64(this.#at, value, true);
    this.#at += 8;
  }

  i64(value: bigint): void {
    this.#view.setBigInt64(this.#at, value, true);
    this.#at += 8;
  }

  bytes(bytes: Uint8Array): void {
    this.room.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** An unsigned number of up to 32 bits, in 7-bit groups, the lowest first. */
  varint(value: number): void {
    for (; value >= 0x80; value = Math.floor(value / 0x80)) this.u8(value & 0x7f | 0x80);
    this.u8(value);
  }

  /** Numbers that do not fall: how many, then the distance of each from the one before. */
  distances(numbers: Uint32Array): void {
    this.varint(numbers.length);
    let before = 0;
    for (const number of numbers) {
      this.varint(number - before);
      before = number;
    }
  }

  /** What was written. */
  taken(): Uint8Array {
    return this.room.subarray(0, this.#at);
  }
}

/** Reads what `ByteWriter` wrote. Every method throws a RangeError when that is not there. */
export class ByteReader {
  readonly #view: DataView;
  #at = 0;

  constructor(private readonly input: Uint8Array) {
    this.#view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  }

  get left(): number {
    return this.input.length - this.#at;
  }

  u8(): number {
    return this.#view.getUint8(this.#skip(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#skip(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#skip(8), true);
  }

  i64(): bigint {
    return this.#view.getBigInt64(this.#skip(8), true);
  }

  bytes(count: number): Uint8Array {
    const at = this.#skip(count);
    return this.input.subarray(at, at + count);
  }

  varint(): number {
    let value = 0;
    for (let factor = 1;; factor *= 0x80) {
      const byte = this.u8();
      value += (byte & 0x7f) * factor;
      if (value > 0xffff_ffff || factor > 0x80 ** 4) {
        throw new RangeError(`Cannot take ${value} for a number of 32 bits`);
      }
      if (byte < 0x80) return value;
    }
  }

  distances(): Uint32Array {
    const count = this.varint();
    // Each takes a byte at least: a wrong count must not take memory.
    if (count > this.left) throw new RangeError(`Cannot take ${count} numbers out of ${this.left} bytes`);
    const numbers = new Uint32Array(count);
    let before = 0;
    for (let i = 0; i < count; i++) {
      before += this.varint();
      if (before > 0xffff_ffff) throw new RangeError(`Cannot take ${before} for a number of 32 bits`);
      numbers[i] = before;
    }
    return numbers;
  }

  #skip(count: number): number {
    const at = this.#at;
    if (count > this.left) throw new RangeError(`Cannot take ${count} bytes: ${this.left} are left`);
    this.#at = at + count;
    return at;
  }
}
