/** A gap that a real server made, healed beside the stream, or accepted. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLsn } from "../../lib/wal/lsn.ts";
import { assertHealed, churn, copyOf, gap, withGap } from "./healing_scene.ts";
import { walvault } from "./pusher.ts";
import { caughtUp, startReceiver } from "./receiver.ts";

const timeout = 300_000;

test(
  "receive heals a gap by itself, beside its stream",
  { timeout },
  () =>
    withGap(async (scene, directory) => {
      const { cluster, copies } = scene;
      const path = directory.file("healing");
      copyOf(scene, path);
      const peer = directory.file("late");
      fs.mkdirSync(peer);
      await using receiver = startReceiver({
        connection: cluster.conninfo(),
        archive: path,
        options: [`--peer=${copies}`],
      });
      const brought = await receiver.next("missing wal brought in");
      assert.equal(brought["source"], copies);
      await receiver.next("gap healed");
      await churn(cluster);
      await caughtUp(cluster, receiver);
      assert.equal(await receiver.stop(), 0);
      assertHealed(scene, path);
    }),
);

test(
  "a gap that is accepted is none that anybody waits for, and stays a hole",
  { timeout },
  () =>
    withGap((scene, directory) => {
      const { gap: { startLsn, endLsn, names } } = scene;
      const path = directory.file("accepted");
      const d = copyOf(scene, path);
      const accept = (words: readonly string[]) =>
        walvault(["gap", "accept", d, "--timeline=1", "--reason=its disk is gone", ...words]);
      for (
        const [words, problem] of [
          [["--from=0/1"], /the segment at 0\/0 on timeline 1 is in no gap/],
          [[`--from=${formatLsn(endLsn)}`], /is in no gap/],
          [[`--from=${formatLsn(startLsn)}`, "--to=FF/0"], /ends at/],
          [[`--from=${formatLsn(startLsn)}`, "--reason= "], /No reason is given/],
          [[`--from=${formatLsn(startLsn)}`, "--timeline=2"], /on timeline 2 is in no gap/],
        ] as const
      ) {
        const refused = accept(words);
        assert.equal(refused.code, 2, refused.stdout);
        assert.match(refused.stderr, problem);
      }
      assert.equal(gap(["list", d]).code, 1);
      const target = ["fetch", d, names[0]!, join(directory.file("target"))];
      const verify = () => walvault(["verify", d, "-q"]);
      const check = () => walvault(["status", d, "--check"]);
      assert.deepEqual([verify().code, check().code, walvault(target).code], [1, 1, 200]);
      assert.match(verify().stdout, /^hole: .*; recorded \d{4}-.*\n +hint: .*walvault gap list/m);
      assert.match(check().stdout, /1 recorded gap is open \(.*\): walvault gap list/);
      assert.match(
        walvault(target).stderr,
        /it lies in the gap from .* which was recorded .*walvault gap list/,
      );
      assert.match(walvault(["status", d]).stdout, /^Gap +.* on timeline 1: open, recorded \d{4}-/m);
      const accepted = accept([`--from=${formatLsn(startLsn)}`]);
      assert.equal(accepted.code, 0, accepted.stderr);
      assert.match(accepted.stdout, /^accepted: timeline 1, .*\nNo restore can go across it: .*base backup/);
      const { code, answer } = gap(["list", d]);
      assert.deepEqual([code, answer.open, answer.gaps.map(({ state }) => state)], [0, 0, ["accepted"]]);
      assert.match(
        walvault(["gap", "list", d]).stdout,
        /accepted \d{4}-.* by .*: its disk is gone\nno gap is open\n$/,
      );
      assert.ok(!fs.existsSync(join(path, names[0]!)));
      const [verified, checked, fetched] = [verify(), check(), walvault(target)];
      assert.equal(verified.code, 0, verified.stdout);
      assert.match(verified.stdout, /^note: .*; given up \d{4}-.*: its disk is gone\n/m);
      assert.equal(checked.code, 0, checked.stdout);
      assert.equal(fetched.code, 200, "nobody can go across it");
      assert.match(fetched.stderr, /which was given up .*its disk is gone.*no restore goes across it/);
      assert.match(walvault(["status", d]).stdout, /^Gap +.*: accepted .*: its disk is gone$/m);
      return Promise.resolve();
    }),
);
