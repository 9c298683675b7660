import assert from "node:assert/strict";
import { test } from "node:test";
import { decideHistory } from "../../lib/restore/history_decision.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

test("decideHistory() says no only where nothing newer is there: all combinations", () => {
  let count = 0;
  for (const asked of [1, 2, 3]) {
    for (const newest of [undefined, 1, 2, 3, 4]) {
      for (const stored of [true, false]) {
        for (const own of [true, false]) {
          const decision = decideHistory({
            timeline: timelineId(asked),
            newest: newest === undefined ? undefined : timelineId(newest),
            stored,
            own,
          });
          const reached = newest !== undefined && newest >= asked;
          const want = stored ? "stored" : asked === 1 || own || !reached ? "absent" : "hole";
          assert.equal(decision, want, JSON.stringify({ asked, newest, stored, own }));
          count++;
        }
      }
    }
  }
  assert.equal(count, 60);
});
