import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { WalBuffer } from "../../lib/archive/wal_buffer.ts";

test("a WAL buffer gives back what it took, in order, whatever its size", () => {
  const steps = fc.array(
    fc.oneof(
      fc.record({ push: fc.integer({ min: 0, max: 30 }) }),
      fc.record({ consume: fc.double({ min: 0, max: 1, noNaN: true }) }),
    ),
    { maxLength: 200 },
  );
  fc.assert(fc.property(fc.integer({ min: 1, max: 24 }), steps, (capacity, given) => {
    const buffer = new WalBuffer(new Uint8Array(capacity));
    let queue: number[] = [];
    let next = 0;
    for (const step of given) {
      if ("push" in step) {
        const bytes = Uint8Array.from({ length: step.push }, (_, index) => (next + index) & 255);
        const taken = buffer.push(bytes);
        assert.equal(taken, Math.min(step.push, capacity - queue.length));
        queue.push(...bytes.subarray(0, taken));
        next += taken;
      } else {
        const piece = buffer.peek();
        assert.deepEqual([...piece], queue.slice(0, piece.length));
        assert.equal(piece.length === 0, queue.length === 0);
        const count = Math.floor(piece.length * step.consume);
        buffer.consume(count);
        queue = queue.slice(count);
      }
      assert.equal(buffer.bytes, queue.length);
      assert.equal(buffer.freeBytes, capacity - queue.length);
    }
  }));
});

test("what a WAL buffer shows stays untouched while more comes", () => {
  const buffer = new WalBuffer(new Uint8Array(8));
  buffer.push(Uint8Array.of(1, 2, 3, 4, 5, 6));
  buffer.consume(4);
  const piece = buffer.peek();
  assert.equal(buffer.push(Uint8Array.of(7, 8, 9, 10, 11, 12, 13)), 6);
  assert.deepEqual([...piece], [5, 6]);
  assert.deepEqual([...buffer.peek()], [5, 6, 7, 8]);
  buffer.consume(4);
  assert.deepEqual([...buffer.peek()], [9, 10, 11, 12]);
});
