/** A gap that a real server made, healed by whoever still has the WAL. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { formatLsn } from "../../lib/wal/lsn.ts";
import { startCluster } from "./cluster.ts";
import { assertHealed, copyOf, gap, segmentBytes, withGap } from "./healing_scene.ts";
import { walvault } from "./pusher.ts";
import { TEST_MAJOR } from "./servers.ts";

const timeout = 300_000;

test(
  `a gap that PostgreSQL ${TEST_MAJOR} made is healed by whoever still has the WAL`,
  { timeout },
  () =>
    withGap(async (scene, directory) => {
      const { cluster, standby, copies, gap: { startLsn, endLsn, names } } = scene;
      const listed = gap(["list", `--archive=${scene.archive.directory}`]);
      assert.equal(listed.code, 1);
      const [open] = listed.answer.gaps;
      assert.deepEqual(
        [open?.state, open?.recorded, open?.startLsn, open?.endLsn, open?.segments],
        ["open", true, formatLsn(startLsn), formatLsn(endLsn), names.length],
      );

      // Who has nothing of it, and who is of another cluster.
      let path = directory.file("other");
      let d = copyOf(scene, path);
      await using other = await startCluster({ segmentBytes });
      const peer = join(other.dataDirectory, "pg_wal");
      for (const name of names) fs.copyFileSync(join(copies, name), join(peer, name));
      const primary = cluster.conninfo();
      const nobody = gap(["heal", d, `--connection=${primary}`, `--peer=${peer}`, "--peer=/nowhere"]);
      assert.deepEqual([nobody.code, nobody.answer.open], [1, 1]);
      const said = nobody.answer.gaps[0]?.answers?.map(({ answer }) => answer ?? "") ?? [];
      assert.match(said[1] ?? "", /it belongs to the cluster with system identifier/);
      assert.match(said[2] ?? "", /there is no such directory/);
      assert.match(said[3] ?? "", /has already been removed/);
      const wrong = gap(["heal", d, `--connection=${other.conninfo()}`]);
      assert.match(wrong.answer.gaps[0]?.answers?.[1]?.answer ?? "", /it has system identifier/);

      // A standby; the first host has none of it.
      const hosts = `${primary.replace(/host=\S+/, "host=127.0.0.1,127.0.0.1")}`.replace(
        /port=(\d+)/,
        `port=$1,${/port=(\d+)/.exec(standby.conninfo())?.[1]}`,
      );
      const byStandby = gap(["heal", d, `--connection=${hosts}`]);
      assert.equal(byStandby.code, 0, "x");
      assert.equal(byStandby.answer.gaps[0]?.answers?.at(-1)?.segments, names.length);
      assertHealed(scene, path);
      assert.equal(gap(["heal", d]).code, 0, "nothing to do");

      // What is pushed.
      path = directory.file("pushed");
      d = copyOf(scene, path);
      for (const name of names) {
        const pushed = walvault(["push", d, join(copies, name)]);
        assert.equal(pushed.code, 0, pushed.stderr);
      }
      const filled = gap(["list", d]);
      assert.deepEqual([filled.code, filled.answer.gaps.map(({ unproven }) => unproven)], [1, [true]]);
      assert.equal(gap(["heal", d]).code, 0, "every byte is looked at");
      assertHealed(scene, path);

      // Another directory, with files in all forms.
      path = directory.file("peer");
      d = copyOf(scene, path);
      const mixed = directory.file("mixed");
      fs.mkdirSync(mixed);
      for (const [index, name] of names.entries()) {
        const bytes = fs.readFileSync(join(copies, name));
        if (index % 3 === 0) fs.writeFileSync(join(mixed, name), bytes);
        else if (index % 3 === 1) fs.writeFileSync(join(mixed, `${name}.gz`), gzipSync(bytes));
        else fs.writeFileSync(join(mixed, `${name}.zst`), zstdCompressSync(bytes));
      }
      assert.equal(gap(["heal", d, `--peer=${mixed}`]).code, 0);
      assertHealed(scene, path);

      // Another archive.
      const second = path;
      path = directory.file("by-archive");
      assert.equal(gap(["heal", copyOf(scene, path), `--peer=${second}`]).code, 0);
      assertHealed(scene, path);

      // What an earlier run had kept.
      path = directory.file("kept");
      d = copyOf(scene, path);
      for (const name of names) {
        fs.copyFileSync(join(copies, name), join(path, "inprogress", `${name}.saved-1`));
      }
      assert.equal(gap(["heal", d]).code, 0);
      assertHealed(scene, path);

      // Text answers, too.
      path = directory.file("text");
      d = copyOf(scene, path);
      const text = walvault(["gap", "list", d]);
      assert.match(
        text.stdout,
        /^State +Timeline .*\nopen +1 +.*\n +recorded \d{4}-.*has already been removed\n1 gap is open/,
      );
      const healed = walvault(["gap", "heal", d, `--peer=${copies}`]);
      assert.match(
        healed.stdout,
        new RegExp(`: healed\\n.*\\n  .*copies: brought ${names.length}\\nno gap is open\\n$`),
      );
      assert.equal(healed.code, 0);
    }),
);
