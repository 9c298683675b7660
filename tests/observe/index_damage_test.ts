import assert from "node:assert/strict";
import { test } from "node:test";
import type { SegmentIndexHead } from "../../lib/archive/segment_index.ts";
import { indexDamage } from "../../lib/observe/index_damage.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import type { PageHeader } from "../../lib/wal/page.ts";
import type { SegmentScan } from "../../lib/wal/scanner.ts";

const at = (offset: number) => lsn(BigInt(offset));
const LAST = at(0x3f0000);
const OPEN = at(0x3ff000);

function head(name: string, scan: Partial<SegmentScan>): SegmentIndexHead {
  const whole = { startLsn: at(0x400000), endLsn: at(0x500000), end: "segment-end", continuesFrom: false };
  return { name, scan: { ...whole, ...scan } } as unknown as SegmentIndexHead;
}

const GIVEN_UP = { overwritesContrecord: true } as PageHeader;
const FIRST = { firstRecordLsn: at(0x400028) };
const SWITCHED = { end: "switch", restIsZero: true } as const;
const CASES: readonly (readonly [
  what: string,
  before: Partial<SegmentScan>,
  scan: Partial<SegmentScan>,
  want: RegExp | undefined,
])[] = [
  ["linked", { lastRecordLsn: LAST }, { ...FIRST, firstRecordPrevLsn: LAST }, undefined],
  [
    "a record that goes on",
    { lastRecordLsn: LAST, openRecordLsn: OPEN },
    { ...FIRST, continuesFrom: true, firstRecordPrevLsn: OPEN },
    undefined,
  ],
  [
    "a record that was given up",
    { lastRecordLsn: LAST, openRecordLsn: OPEN },
    { ...FIRST, firstPage: GIVEN_UP, firstRecordPrevLsn: LAST },
    undefined,
  ],
  [
    "the middle of a record on both sides",
    { continuesFrom: true },
    { continuesFrom: true, ...FIRST, firstRecordPrevLsn: at(0x200000) },
    undefined,
  ],
  [
    "behind a switch",
    { ...SWITCHED, lastRecordLsn: LAST },
    { ...FIRST, firstRecordPrevLsn: LAST },
    undefined,
  ],
  ["the one before is damaged itself", { end: "torn", lastRecordLsn: LAST }, {
    ...FIRST,
    firstRecordPrevLsn: OPEN,
  }, undefined],
  ["torn", { lastRecordLsn: LAST }, { end: "torn" }, /do not lead to its end$/],
  ["no zeros behind a switch", {}, { end: "switch", restIsZero: false }, /do not lead to its end$/],
  [
    "a record that stops at the border",
    { openRecordLsn: OPEN },
    FIRST,
    /does not go on with .* 0\/3FF000, as/,
  ],
  [
    "the rest of a record that nobody began",
    { lastRecordLsn: LAST },
    { continuesFrom: true },
    /which ends whole, as the index of BEFORE says$/,
  ],
  [
    "another link",
    { lastRecordLsn: LAST },
    { ...FIRST, firstRecordPrevLsn: OPEN },
    /links to 0\/3FF000, want 0\/3F0000, as/,
  ],
];

for (const [what, before, scan, want] of CASES) {
  test(`indexes of neighbours: ${what}`, () => {
    const damage = indexDamage(head("AFTER", scan), head("BEFORE", before));
    if (want === undefined) return assert.equal(damage, undefined);
    assert.match(damage?.problem ?? "", want);
    assert.equal(damage?.name, "AFTER");
    assert.match(formatLsn(damage.lsn), /^0\/[45]00000$/);
  });
}
