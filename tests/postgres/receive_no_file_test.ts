/** A pipe stands under a file's name. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { startCluster } from "./cluster.ts";
import { ArchiveFiles, caughtUp, MIB, startReceiver, WorkDirectory } from "./receiver.ts";
import { TABLE } from "./workload.ts";

const timeout = 180_000;

test("receive waits for no pipe, wherever it stands in the archive", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes: MIB, settings: { autovacuum: "off" } });
  const archive = new ArchiveFiles(directory.archive(), MIB);
  const connection = cluster.conninfo();
  await cluster.sql(TABLE);
  const receive = (...options: string[]) =>
    startReceiver({ connection, archive: archive.directory, options: ["--no-gaps", ...options] });
  {
    await using receiver = receive();
    await receiver.next("streaming");
    await cluster.sql("SELECT pg_switch_wal()");
    await cluster.sql("INSERT INTO work VALUES ('a', 'a')");
    await caughtUp(cluster, receiver);
    assert.equal(await receiver.stop(), 0);
  }
  const last = archive.complete().at(-1)!.name;
  const growing = `inprogress/${archive.growing().at(-1)!.name}`;
  const places: readonly (readonly [place: string, outcome: "streaming" | 3])[] = [
    ["archive.json", 3],
    ["gaps.jsonl", 3],
    ["00000002.history", 3],
    [last, 3],
    [growing, 3],
    [`${growing}.saved-1`, "streaming"],
    ["inprogress", 3],
    ["lock", "streaming"],
    [`index/${last}.idx`, "streaming"],
    [`conflicts/${last}-01234567`, "streaming"],
  ];
  for (const [place, want] of places) {
    const path = join(archive.directory, place);
    const aside = directory.file("aside");
    const stood = fs.existsSync(path);
    if (stood) fs.renameSync(path, aside);
    fs.mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    assert.equal(spawnSync("mkfifo", ["-m", "600", path]).status, 0);
    await using receiver = receive();
    const outcome = await Promise.race([
      receiver.next("streaming").then(() => "streaming", () => new Promise<never>(() => {})),
      receiver.ended(),
    ]);
    assert.equal(outcome, want, `${place}: ${receiver.stderr}`);
    if (want === 3) assert.match(receiver.stderr, /a pipe, a socket or a device, want a/, place);
    else assert.equal(await receiver.stop(), 0);
    fs.rmSync(path, { force: true });
    if (stood) fs.renameSync(aside, path);
  }
});
