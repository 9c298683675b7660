import assert from "node:assert/strict";
import { test } from "node:test";
import { openDirectDisk } from "../../../lib/archive/direct_disk.ts";
import { openDirectProver } from "../../../lib/archive/verify/prover.ts";
import { verifyDirectory } from "../../../lib/archive/verify/verify.ts";
import { FIRST, nameOf, Scene, scenery } from "../../restore/restore_scene.ts";

/** Segments by their place in the scene: what is removed once two have been read. */
const CASES: readonly (readonly [what: string, removed: readonly number[], want: readonly string[]])[] = [
  ["the oldest ones", [0, 1, 2, 3], ["note"]],
  ["some in the middle", [2, 3], ["hole"]],
  ["the oldest ones but for one that is still there", [1, 2, 3], ["hole"]],
  ["two stretches, one of them in the middle", [0, 1, 2, 4], ["note", "hole"]],
  ["all but the newest", [0, 1, 2, 3, 4], ["note"]],
];

for (const [what, removed, want] of CASES) {
  test(`verify while somebody removes segments: ${what}`, async () => {
    using scene = new Scene();
    scene.fill(scenery({ segments: 7 }).segments, 6);
    const prover = openDirectProver(scene.archive);
    let proofs = 0;
    const { findings } = await verifyDirectory(openDirectDisk(scene.archive), {
      range: {},
      openProver: () => ({
        ...prover,
        prove: async (task) => {
          if (proofs++ === 2) {
            for (const index of removed) scene.remove(nameOf(FIRST + index));
          }
          return await prover.prove(task);
        },
      }),
      onProgress: () => {},
      signal: new AbortController().signal,
    });
    assert.deepEqual(findings.map(({ kind }) => kind), want);
  });
}
