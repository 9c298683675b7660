import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  advance,
  bytesBetween,
  formatLsn,
  lsn,
  maxLsn,
  minLsn,
  parseLsn,
  ZERO_LSN,
} from "../../lib/wal/lsn.ts";

const LAST = 0xffff_ffff_ffff_ffffn;

const EDGES: readonly [bigint, string][] = [
  [0n, "0/0"],
  [1n, "0/1"],
  [8191n, "0/1FFF"],
  [8192n, "0/2000"],
  [0x100_0000n, "0/1000000"],
  [0xffff_ffffn, "0/FFFFFFFF"],
  [0x1_0000_0000n, "1/0"],
  [0x16_b374_d848n, "16/B374D848"],
  [1n << 53n, "200000/0"],
  [LAST, "FFFFFFFF/FFFFFFFF"],
];

for (const [value, text] of EDGES) {
  test(`formatLsn() and parseLsn() agree on ${text}`, () => {
    assert.equal(formatLsn(lsn(value)), text);
    assert.equal(parseLsn(text), value);
  });
}

test("parseLsn() takes either case and leading zeros", () => {
  assert.equal(parseLsn("16/b374d848"), 0x16_b374_d848n);
  assert.equal(parseLsn("00000016/0374D848"), 0x16_0374_d848n);
});

const REFUSED = [
  "",
  "/",
  "0",
  "0/",
  "/0",
  "0x0/1",
  "0/0x1",
  " 0/1",
  "0/1 ",
  "0/1\n",
  "0 /1",
  "-1/0",
  "+1/0",
  "0/1/2",
  "G/0",
  "000000001/0",
  "0/123456789",
  "1_0/0",
];
for (const text of REFUSED) {
  test(`parseLsn() refuses ${JSON.stringify(text)}`, () => {
    assert.throws(() => parseLsn(text), SyntaxError);
  });
}

test("parseLsn() reads what formatLsn() writes", () => {
  fc.assert(fc.property(fc.bigInt({ min: 0n, max: LAST }), (value) => {
    assert.equal(parseLsn(formatLsn(lsn(value))), value);
  }));
});

test("lsn() refuses what does not fit 64 bits", () => {
  assert.throws(() => lsn(-1n), RangeError);
  assert.throws(() => lsn(LAST + 1n), RangeError);
});

test("advance() goes to the last LSN and no further", () => {
  assert.equal(advance(ZERO_LSN, 0), 0n);
  assert.equal(advance(lsn(0xffff_fff0n), 16), 0x1_0000_0000n);
  assert.equal(advance(lsn(LAST - 1n), 1n), LAST);
  assert.equal(advance(lsn(8n), -8), 0n);
  assert.throws(() => advance(lsn(LAST), 1), RangeError);
  assert.throws(() => advance(ZERO_LSN, -1), RangeError);
  assert.throws(() => advance(ZERO_LSN, 0.5), RangeError);
});

test("bytesBetween() is negative when the end comes first", () => {
  assert.equal(bytesBetween({ startLsn: ZERO_LSN, endLsn: lsn(LAST) }), LAST);
  assert.equal(bytesBetween({ startLsn: lsn(8192n), endLsn: ZERO_LSN }), -8192n);
});

test("minLsn() and maxLsn() choose", () => {
  assert.equal(minLsn(ZERO_LSN, lsn(LAST)), 0n);
  assert.equal(maxLsn(ZERO_LSN, lsn(LAST)), LAST);
  assert.equal(minLsn(lsn(5n), lsn(5n)), 5n);
});
