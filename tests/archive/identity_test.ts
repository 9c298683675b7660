import assert from "node:assert/strict";
import { test } from "node:test";
import { type ArchiveIdentity, decodeIdentity, encodeIdentity } from "../../lib/archive/identity.ts";
import { segmentSize } from "../../lib/wal/segment.ts";

const IDENTITY: ArchiveIdentity = {
  systemIdentifier: 0xffff_ffff_ffff_fff1n,
  segmentSize: segmentSize(16 << 20),
};

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function encode(value: unknown): Uint8Array {
  return new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
}

test("an identity survives being written and read", () => {
  for (const systemIdentifier of [0n, 1n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
    for (const bytes of [1 << 20, 16 << 20, 1 << 30]) {
      const identity = { systemIdentifier, segmentSize: segmentSize(bytes) };
      assert.deepEqual(decodeIdentity(encodeIdentity(identity)), identity);
    }
  }
});

test("archive.json is this text, in this version and in all later ones", () => {
  assert.equal(
    text(encodeIdentity(IDENTITY)),
    '{\n  "walvault": "archive",\n  "format": 1,\n  "systemIdentifier": "18446744073709551601",\n' +
      '  "segmentBytes": 16777216,\n  "checksum": "' +
      JSON.parse(text(encodeIdentity(IDENTITY))).checksum + '"\n}\n',
  );
});

test("archive.json cut anywhere is refused", () => {
  const bytes = encodeIdentity(IDENTITY);
  // All but the last line break is needed.
  for (let length = 0; length < bytes.length - 1; length++) {
    assert.throws(() => decodeIdentity(bytes.subarray(0, length)), SyntaxError, `${length} bytes`);
  }
});

test("archive.json with any byte changed says the same, or is refused", () => {
  const bytes = encodeIdentity(IDENTITY);
  for (let index = 0; index < bytes.length; index++) {
    for (let bit = 0; bit < 8; bit++) {
      const damaged = bytes.slice();
      damaged[index]! ^= 1 << bit;
      let decoded: ArchiveIdentity;
      try {
        decoded = decodeIdentity(damaged);
      } catch (error) {
        assert.ok(error instanceof SyntaxError, `byte ${index}: ${error}`);
        continue;
      }
      // White space is not covered, and means nothing.
      assert.deepEqual(decoded, IDENTITY, `byte ${index} bit ${bit}`);
    }
  }
});

test("decodeIdentity() says what is wrong", () => {
  const good = JSON.parse(text(encodeIdentity(IDENTITY)));
  const cases: readonly (readonly [unknown, RegExp])[] = [
    ["", /it is no JSON text/],
    ["null", /it holds no object/],
    ["5", /it holds no object/],
    ["{}", /does not say "walvault": "archive"/],
    ["[]", /does not say "walvault": "archive"/],
    [{ ...good, format: 2 }, /format 2, want 1/],
    [{ ...good, systemIdentifier: 5 }, /systemIdentifier is no unsigned number/],
    [{ ...good, systemIdentifier: "-5" }, /systemIdentifier is no unsigned number/],
    [{ ...good, segmentBytes: "16777216" }, /segmentBytes is no number/],
    [{ ...good, systemIdentifier: "5" }, /changed by hand or damaged/],
    [{ ...good, segmentBytes: 1 << 20 }, /changed by hand or damaged/],
    [{ ...good, checksum: undefined }, /checksum undefined, want/],
  ];
  for (const [value, problem] of cases) assert.throws(() => decodeIdentity(encode(value)), problem);
  assert.throws(() => decodeIdentity(Uint8Array.of(0xff, 0xfe)), /no JSON text/);
  assert.throws(() => decodeIdentity(encode({ ...good, segmentBytes: 5 })), SyntaxError);
});
