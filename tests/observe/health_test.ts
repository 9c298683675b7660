import assert from "node:assert/strict";
import { test } from "node:test";
import type { Gap } from "../../lib/archive/gaps.ts";
import type { BackupJudgement } from "../../lib/observe/backup_judgement.ts";
import { type HealthFacts, problemsOf, type Thresholds } from "../../lib/observe/health.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const WELL: HealthFacts = {
  timeline: timelineId(1),
  holes: [],
  gaps: [],
  backups: [],
  defects: [],
  conflicts: 0,
  freeBytes: 1e9,
  sinceChangeMs: 5000,
  lag: { state: "current", bytes: 0n, ms: 0 },
  slot: { name: "s", activePid: 1, restartLsn: lsn(1n), walStatus: "reserved", safeWalBytes: 1000n },
};
const LOOSE: Thresholds = {
  maxLagMs: 60_000,
  maxLagBytes: undefined,
  maxAgeMs: undefined,
  minSafeWalBytes: undefined,
  minFreeBytes: undefined,
  requireBackup: false,
};
const HOLE = {
  timeline: timelineId(1),
  startLsn: lsn(0x500000n),
  endLsn: lsn(0x600000n),
  segments: 1n,
  firstName: "000000010000000000000005",
};

function backup(startLsn: bigint, toEnd: boolean) {
  const judgement: BackupJudgement = {
    kind: "recoverable",
    timeline: timelineId(1),
    stopLsn: lsn(startLsn),
    endLsn: lsn(0x900000n),
    toEnd,
  };
  return { startLsn: lsn(startLsn), judgement };
}

function gap(state: "open" | "accepted", startLsn = 0x500000n): Gap {
  return {
    timeline: timelineId(1),
    startLsn: lsn(startLsn),
    endLsn: lsn(startLsn + 0x100000n),
    state,
    record: undefined,
    acceptance: undefined,
  };
}

for (
  const [what, facts, thresholds, want] of [
    ["all is well", {}, {}, []],
    ["no server and no slot", { lag: undefined, slot: undefined }, {}, []],
    ["a lag at the limit", { lag: { state: "receiving", bytes: 9n, ms: 60_000 } }, {}, []],
    ["a lag", { lag: { state: "stalled", bytes: 9n, ms: 60_001 } }, {}, [
      "60 s behind the server (stalled), want at most 60 s",
    ]],
    ["a lag that nothing tells the age of", { lag: { state: "receiving", bytes: 9n, ms: undefined } }, {}, [
      "9 bytes behind the server (receiving), nothing tells for how long, want at most 60 s",
    ]],
    ["bytes behind", { lag: { state: "receiving", bytes: 9n, ms: 1 } }, { maxLagBytes: 8n }, [
      "9 bytes behind the server (receiving), want at most 8",
    ]],
    ["bytes behind at the limit", { lag: { state: "receiving", bytes: 9n, ms: 1 } }, { maxLagBytes: 9n }, []],
    ["old WAL", {}, { maxAgeMs: 4999 }, ["no WAL has come for 5.0 s, want some at most 5.0 s old"]],
    ["WAL of the future", { sinceChangeMs: -20_000 }, { maxAgeMs: 5000 }, [
      "the newest file's time lies 20 s in the future, want WAL at most 5.0 s old",
    ]],
    ["no WAL", { sinceChangeMs: undefined }, { maxAgeMs: 1000 }, [
      "no WAL has come yet, want some at most 1.0 s old",
    ]],
    ["a hole", { holes: [HOLE] }, {}, ["000000010000000000000005 is missing (0/500000 to 0/600000)"]],
    ["two holes", { holes: [{ ...HOLE, segments: 2n }, HOLE] }, {}, [
      "2 segments from 000000010000000000000005 on are missing (0/500000 to 0/600000), and 1 more hole",
    ]],
    [
      "a hole before a backup that leads to the end",
      { holes: [HOLE], backups: [backup(0x600000n, true)] },
      {},
      [],
    ],
    ["an accepted hole", { holes: [HOLE], gaps: [gap("accepted")] }, {}, []],
    [
      "a hole of which two accepted gaps are a part each",
      {
        holes: [{ ...HOLE, endLsn: lsn(0x700000n), segments: 2n }],
        gaps: [gap("accepted"), gap("accepted", 0x600000n)],
      },
      {},
      [],
    ],
    [
      "a hole that is accepted in part",
      { holes: [{ ...HOLE, endLsn: lsn(0x700000n), segments: 2n }], gaps: [gap("accepted")] },
      {},
      ["2 segments from 000000010000000000000005 on are missing (0/500000 to 0/700000)"],
    ],
    [
      "a recorded gap, wherever the backups began",
      { holes: [HOLE], gaps: [gap("open")], backups: [backup(0x600000n, true)] },
      {},
      [
        "1 recorded gap is open (0/500000 to 0/600000 on timeline 1): walvault gap list",
      ],
    ],
    ["a hole behind the newest backup", { holes: [HOLE], backups: [backup(0x400000n, false)] }, {}, [
      "000000010000000000000005 is missing (0/500000 to 0/600000)",
    ]],
    ["a backup that is required", { backups: [backup(0x600000n, true)] }, { requireBackup: true }, []],
    ["no backup", {}, { requireBackup: true }, ["no known base backup can be recovered to the end"]],
    ["a backup that does not lead to the end", { backups: [backup(1n, false)] }, { requireBackup: true }, [
      "no known base backup can be recovered to the end",
    ]],
    [
      "a backup that leads to the end of another timeline only",
      { timeline: timelineId(2), holes: [HOLE], backups: [backup(0x600000n, true)] },
      { requireBackup: true },
      [
        "000000010000000000000005 is missing (0/500000 to 0/600000)",
        "no known base backup can be recovered to the end",
      ],
    ],
    ["a conflict", { conflicts: 1 }, {}, ["1 file in conflicts/: look at them, then move them away"]],
    ["a defect", { defects: ["something"] }, {}, ["something"]],
    ["no slot", { slot: "absent" }, {}, [
      "the server has no slot of that name: make it with receive --create-slot",
    ]],
    ["a slot that has lost WAL", { slot: { ...WELL.slot as object, walStatus: "lost" } }, {}, [
      "slot s is lost, want reserved or extended",
    ]],
    ["a slot that loses WAL", { slot: { ...WELL.slot as object, walStatus: "unreserved" } }, {}, [
      "slot s is unreserved, want reserved or extended",
    ]],
    ["an extended slot", { slot: { ...WELL.slot as object, walStatus: "extended" } }, {}, []],
    ["a slot near its limit", {}, { minSafeWalBytes: 1001n }, [
      "slot s has 1000 bytes to its limit, want at least 1001",
    ]],
    ["a slot without a limit", { slot: { ...WELL.slot as object, safeWalBytes: undefined } }, {
      minSafeWalBytes: 1001n,
    }, []],
    ["no room", { freeBytes: 10.5 }, { minFreeBytes: 11n }, [
      "10 bytes free in the archive, want at least 11",
    ]],
  ] as readonly (readonly [string, Partial<HealthFacts>, Partial<Thresholds>, readonly string[]])[]
) {
  test(`problemsOf(): ${what}`, () => {
    assert.deepEqual(problemsOf({ ...WELL, ...facts }, { ...LOOSE, ...thresholds }), want);
  });
}
