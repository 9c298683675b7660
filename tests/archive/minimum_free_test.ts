import assert from "node:assert/strict";
import { test } from "node:test";
import {
  judgeRoom,
  type MinimumFree,
  minimumFreeBytes,
  resumeFreeBytes,
} from "../../lib/archive/minimum_free.ts";
import { minimumFreeOption } from "../../lib/commands/parse_values.ts";

const MIB = 1 << 20;
const GIB = 1 << 30;

for (
  const [name, minimum, measure, minimumBytes, resumeBytes] of [
    [
      "a usual disk",
      { kind: "default" },
      { totalBytes: 100 * GIB, segmentBytes: 16 * MIB },
      64 * MIB,
      96 * MIB,
    ],
    ["large segments", { kind: "default" }, { totalBytes: 100 * GIB, segmentBytes: GIB }, 2 * GIB, 4 * GIB],
    // No more than a twentieth of what there is.
    ["a small disk", { kind: "default" }, { totalBytes: 40 * MIB, segmentBytes: MIB }, 2 * MIB, 4 * MIB],
    // It could never have two segments more.
    [
      "large segments on a small disk",
      { kind: "default" },
      { totalBytes: 2 * GIB, segmentBytes: GIB },
      GIB / 10,
      1.05 * GIB,
    ],
    [
      "bytes",
      { kind: "bytes", bytes: 10 * GIB },
      { totalBytes: 100 * GIB, segmentBytes: 16 * MIB },
      10 * GIB,
      11 * GIB,
    ],
    [
      "percent",
      { kind: "percent", percent: 10 },
      { totalBytes: 100 * GIB, segmentBytes: 16 * MIB },
      10 * GIB,
      11 * GIB,
    ],
    [
      "more than there is",
      { kind: "bytes", bytes: GIB },
      { totalBytes: 100 * MIB, segmentBytes: MIB },
      GIB,
      GIB,
    ],
    ["no size known", { kind: "default" }, { totalBytes: 0, segmentBytes: MIB }, 0, 0],
  ] as const
) {
  test(`minimumFreeBytes() and resumeFreeBytes(): ${name}`, () => {
    assert.equal(minimumFreeBytes(minimum, measure), Math.floor(minimumBytes));
    const resume = resumeFreeBytes(minimumFreeBytes(minimum, measure), measure);
    assert.ok(Math.abs(resume - resumeBytes) <= 1, `${resume}`);
  });
}

test("judgeRoom() stops below the minimum, and goes on only with some room above it", () => {
  const minimum: MinimumFree = { kind: "bytes", bytes: 100 * MIB };
  const judge = (freeBytes: number, wasShort: boolean) =>
    judgeRoom({ freeBytes, totalBytes: 10 * GIB }, { minimum, segmentBytes: 16 * MIB, wasShort });
  const wantBytes = 132 * MIB;
  assert.equal(judge(100 * MIB, false), undefined);
  assert.deepEqual(judge(100 * MIB - 1, false), { freeBytes: 100 * MIB - 1, wantBytes });
  assert.deepEqual(judge(100 * MIB, true), { freeBytes: 100 * MIB, wantBytes });
  assert.deepEqual(judge(wantBytes - 1, true), { freeBytes: wantBytes - 1, wantBytes });
  assert.equal(judge(wantBytes, true), undefined);
});

test("judgeRoom() with a minimum of 0 never stops", () => {
  const space = { freeBytes: 0, totalBytes: GIB };
  for (const wasShort of [false, true]) {
    const minimum: MinimumFree = { kind: "bytes", bytes: 0 };
    assert.equal(judgeRoom(space, { minimum, segmentBytes: MIB, wasShort }), undefined);
  }
});

for (
  const [text, want] of [
    ["0", { kind: "bytes", bytes: 0 }],
    ["2GB", { kind: "bytes", bytes: 2 * GIB }],
    ["5%", { kind: "percent", percent: 5 }],
    ["0.5%", { kind: "percent", percent: 0.5 }],
  ] as const
) {
  test(`minimumFreeOption() takes "${text}"`, () => assert.deepEqual(minimumFreeOption(text), want));
}

for (const text of ["", "100%", "-1", "5 MB", "5 %", "%", "1e3", "2gb"]) {
  test(`minimumFreeOption() refuses "${text}"`, () => {
    assert.throws(() => minimumFreeOption(text), /want a size such as 2GB, .*or a share such as 5%/);
  });
}
