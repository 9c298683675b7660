/** `status` on archives made of bytes: what is told, and which exit code that is. */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { directIndexWorker } from "../../lib/archive/index_worker.ts";
import { PieceCompressor } from "../../lib/archive/compression.ts";
import { UsageError } from "../../lib/commands/context.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { cutAt, FIRST, lastEnd, nameOf, Scene, scenery } from "../restore/restore_scene.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { MIB, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { statusObject, tellStatus } from "./status_scene.ts";

const { segments, ends } = scenery();
const at = (number: number) => formatLsn(lsn(BigInt(number * MIB)));
const END = formatLsn(lsn(ends.at(-1)!));

/** Three complete segments and one in progress. */
function filled(options: { readonly identity?: "archive.json" | "none" } = {}): Scene {
  const scene = new Scene(options);
  if (options.identity !== "none") {
    scene.fill(segments, 3);
    return scene;
  }
  for (const [index, bytes] of segments.entries()) {
    scene.put(nameOf(FIRST + index) + (index < 3 ? "" : ".partial"), bytes);
  }
  return scene;
}

interface Latest {
  readonly lsn: string;
  readonly completeLsn?: string;
  readonly receivedLsn: string;
  readonly tail?: string;
}

async function latestOf(scene: Scene): Promise<Latest> {
  return (await statusObject(["-d", scene.archive]))["latest"] as Latest;
}

test("status tells where the archive ends: the last valid record, whatever file it is in", async () => {
  using scene = filled();
  assert.deepEqual(await latestOf(scene), {
    timeline: 1,
    lsn: END,
    completeLsn: at(FIRST + 3),
    receivedLsn: END,
    tail: `inprogress/${nameOf(FIRST + 3)}`,
    tailStartLsn: at(FIRST + 3),
  });
  scene.remove(`inprogress/${nameOf(FIRST + 3)}`);
  const without = await latestOf(scene);
  assert.equal(without.lsn, at(FIRST + 3));
  assert.equal(without.tail, undefined);
});

test("status takes the copy that goes furthest, and what was made ahead for nothing", async () => {
  using scene = filled();
  const last = FIRST + 3;
  const cut = lastEnd(ends, BigInt(last * MIB + 200_000));
  const tail = segments[3]!;
  scene.put(`inprogress/${nameOf(last)}`, cutAt(tail, last, cut));
  scene.put(`inprogress/${nameOf(last)}.saved-1`, tail);
  scene.put(`inprogress/${nameOf(last + 1)}`, new Uint8Array(MIB));
  const latest = await latestOf(scene);
  assert.equal(latest.lsn, END);
  assert.equal(latest.tail, `inprogress/${nameOf(last)}.saved-1`);
  scene.remove(`inprogress/${nameOf(last)}.saved-1`);
  assert.equal((await latestOf(scene)).lsn, formatLsn(lsn(cut)));
  scene.put(`inprogress/${nameOf(last)}`, new Uint8Array(MIB));
  assert.equal((await latestOf(scene)).lsn, at(last));
});

test("status counts what is here of a record that is cut off as received, and no more", async () => {
  using scene = filled();
  const last = FIRST + 3;
  const whole = lastEnd(ends, BigInt(last * MIB + 200_000));
  scene.put(`inprogress/${nameOf(last)}`, cutAt(segments[3]!, last, whole + 2000n));
  const latest = await latestOf(scene);
  assert.equal(latest.lsn, formatLsn(lsn(whole)));
  const received = BigInt(`0x${latest.receivedLsn.slice(2)}`);
  // Bytes that are zero can't be told from those that are not there.
  assert.ok(received > whole + 1980n && received <= whole + 2000n, latest.receivedLsn);
});

test("status follows a segment that is whole and not yet published", async () => {
  using scene = new Scene();
  scene.fill(segments, 1);
  scene.put(`inprogress/${nameOf(FIRST + 2)}`, segments[2]!);
  scene.put(`inprogress/${nameOf(FIRST + 3)}`, segments[3]!);
  const latest = await latestOf(scene);
  assert.equal(latest.lsn, END);
  assert.equal(latest.completeLsn, at(FIRST + 1));
});

test("status tells holes, also one before WAL in progress; --check says so", async () => {
  using scene = filled();
  scene.remove(nameOf(FIRST + 1));
  const holed = await statusObject(["-d", scene.archive]);
  const hole = {
    timeline: 1,
    startLsn: at(FIRST + 1),
    endLsn: at(FIRST + 2),
    segments: 1,
    firstFile: nameOf(FIRST + 1),
  };
  assert.deepEqual(holed["holes"], [hole]);
  assert.equal(holed["needsBackupFromLsn"], at(FIRST + 2));
  scene.put(nameOf(FIRST + 1), segments[1]!);
  scene.remove(nameOf(FIRST + 2));
  const before = await statusObject(["-d", scene.archive]);
  assert.deepEqual((before["holes"] as readonly unknown[]).length, 1);
  assert.equal((before["latest"] as Latest).lsn, END);
  assert.equal(before["needsBackupFromLsn"], at(FIRST + 3));
  const check = await tellStatus(["-d", scene.archive, "--check"]);
  assert.equal(check.code, 1);
  assert.equal(
    check.stdout,
    `UNHEALTHY: ${nameOf(FIRST + 2)} is missing (${at(FIRST + 2)} to ${at(FIRST + 3)})\n`,
  );
});

test("status calls no backup recoverable to the end over a hole before WAL in progress", async () => {
  using scene = filled();
  const label = `${nameOf(FIRST)}.00000028.backup`;
  scene.put(
    label,
    `START WAL LOCATION: ${at(FIRST)} (file ${nameOf(FIRST)})\n` +
      `STOP WAL LOCATION: ${formatLsn(lsn(BigInt(FIRST * MIB + 5000)))} (file ${nameOf(FIRST)})\nLABEL: x\n`,
  );
  const backupOf = async () => {
    const { backups } = await statusObject(["-d", scene.archive]);
    const [{ endLsn, toEnd } = {}] = backups as readonly { endLsn?: string; toEnd?: boolean }[];
    return [endLsn, toEnd];
  };
  assert.deepEqual(await backupOf(), [END, true]);
  scene.remove(nameOf(FIRST + 2));
  assert.deepEqual(await backupOf(), [at(FIRST + 2), false]);
  assert.equal((await tellStatus(["-d", scene.archive, "--check", "--require-backup"])).code, 1);
});

test("status reads compressed segments, and each form of a directory of pg_receivewal", async () => {
  using scene = filled();
  scene.remove(nameOf(FIRST + 1));
  const zstd = new PieceCompressor({ format: "zstd", level: 1 });
  scene.put(`${nameOf(FIRST + 1)}.zst`, Buffer.concat([...zstd.push(segments[1]!), ...zstd.end()]));
  assert.deepEqual((await statusObject(["-d", scene.archive]))["holes"], []);

  using plain = filled({ identity: "none" });
  const told = await statusObject(["-d", plain.archive]);
  assert.equal((told["archive"] as { kind: string }).kind, "pg_receivewal");
  assert.equal((told["latest"] as Latest).lsn, END);
  assert.equal((told["latest"] as Latest).tail, `${nameOf(FIRST + 3)}.partial`);
  plain.remove(`${nameOf(FIRST + 3)}.partial`);
  plain.put(`${nameOf(FIRST + 3)}.gz.partial`, gzipSync(segments[3]!));
  assert.equal((await latestOf(plain)).lsn, END);
});

test("status tells what stands where a segment should, damaged histories and labels, and conflicts", async () => {
  using scene = filled();
  scene.put(nameOf(FIRST + 2), segments[2]!.subarray(0, 1000));
  scene.put("00000002.history", "1\t0/5");
  scene.put(`${nameOf(FIRST)}.00000028.backup`, "START WAL LOCATION: 0/3000");
  scene.put("conflicts/one", "x");
  const { problems } = await statusObject(["-d", scene.archive]) as { problems: readonly string[] };
  assert.match(problems.join("\n"), new RegExp(`"${nameOf(FIRST + 2)}" has 1000 bytes, want 1048576`));
  assert.match(problems.join("\n"), /00000002\.history": its last line is cut off/);
  assert.match(problems.join("\n"), /\.backup" can't be read/);
  assert.match(problems.join("\n"), /1 file in conflicts\//);
});

test("status goes on where a directory stands under the name of a history or a label", async () => {
  using scene = filled();
  for (const name of ["00000002.history", `${nameOf(FIRST)}.00000028.backup`]) {
    fs.mkdirSync(join(scene.archive, name));
  }
  const { problems, latest } = await statusObject(["-d", scene.archive]) as {
    problems: readonly string[];
    latest: Latest;
  };
  assert.deepEqual(problems, [
    `"00000002.history" is a directory, want a file`,
    `"${nameOf(FIRST)}.00000028.backup" is a directory, want a file`,
  ]);
  assert.equal(latest.lsn, END);
});

test("status looks also at segments that are not the last of their run", async () => {
  using scene = filled();
  scene.put(nameOf(FIRST + 1), segments[1]!.subarray(0, 1000));
  const { problems } = await statusObject(["-d", scene.archive]) as { problems: readonly string[] };
  assert.deepEqual(problems, [`"${nameOf(FIRST + 1)}" has 1000 bytes, want 1048576`]);
});

test("status says when the history of its newest timeline is missing", async () => {
  using scene = filled();
  scene.put(nameOf(FIRST + 3, 2), scenery({ timeline: 2 }).segments[2]!);
  const check = await tellStatus(["-d", scene.archive, "--check"]);
  assert.match(check.stdout, /^UNHEALTHY: .*00000002\.history is missing/);
  assert.equal(check.code, 1);
});

test("status judges by the limits that are given", async () => {
  using scene = filled();
  const old = Date.now() / 1000 - 1000;
  fs.utimesSync(join(scene.archive, "inprogress", nameOf(FIRST + 3)), old, old);
  for (
    const [words, code, line] of [
      [[], 0, /^OK: .*: timeline 1 to 0\/[0-9A-F]+; written 17 min ago, no server asked\n$/],
      [["--max-age=2000"], 0, /^OK: /],
      [["--max-age=900"], 1, /^UNHEALTHY: no WAL has come for 100[0-9] s, want some at most 900 s old\n$/],
      [["--min-free=1kB"], 0, /^OK: /],
      [["--min-free=900000TB"], 1, /^UNHEALTHY: [0-9]+ bytes free in the archive, want at least [0-9]+\n$/],
      [["--require-backup"], 1, /^UNHEALTHY: no known base backup can be recovered to the end\n$/],
    ] as const
  ) {
    const told = await tellStatus(["-d", scene.archive, "--check", ...words]);
    assert.match(told.stdout, line);
    assert.equal(told.code, code);
    const { healthy } = JSON.parse(
      (await tellStatus(["-d", scene.archive, "--check", "--json", ...words])).stdout,
    ) as { healthy: boolean };
    assert.equal(healthy, code === 0);
  }
});

test("status of an archive without WAL says so", async () => {
  using scene = new Scene();
  const told = await tellStatus(["-d", scene.archive]);
  assert.equal(told.code, 0);
  assert.match(told.stdout, /^Latest +no WAL yet$/m);
  assert.match(told.stdout, /^Recoverable +nothing yet$/m);
  const check = await tellStatus(["-d", scene.archive, "--check"]);
  assert.equal(check.code, 0);
  assert.equal((await tellStatus(["-d", scene.archive, "--check", "--max-age=60"])).code, 1);
});

test("status of what is no archive fails; --check answers 1, in one line", async () => {
  using scene = filled();
  const nothing = join(scene.path, "nothing");
  await assert.rejects(() => tellStatus(["-d", nothing]), /there is no such directory/);
  const check = await tellStatus(["-d", nothing, "--check"]);
  assert.equal(check.code, 1);
  assert.match(check.stdout, /^UNHEALTHY: Cannot read the archive [^\n]+\n$/);
  fs.writeFileSync(join(scene.archive, "archive.json"), "{");
  await assert.rejects(() => tellStatus(["-d", scene.archive]), /Cannot read the archive/);
  assert.equal((await tellStatus(["-d", scene.archive, "--check"])).code, 1);
});

test("status changes nothing", async () => {
  using scene = filled();
  const list = () => fs.readdirSync(scene.path, { recursive: true, encoding: "utf8" }).sort();
  const before = list();
  await tellStatus(["-d", scene.archive]);
  await tellStatus(["-d", scene.archive, "--check"]);
  assert.deepEqual(list(), before);
});

test("status tells the latest LSN of WAL files, whatever they are called", async () => {
  using scene = filled();
  const copy = join(scene.path, "copy of a segment");
  fs.writeFileSync(copy, segments[3]!);
  const gz = join(scene.path, `${nameOf(FIRST)}.gz`);
  fs.writeFileSync(gz, gzipSync(segments[0]!));
  const link = join(scene.path, "link");
  fs.symlinkSync(copy, link);
  const files = [join(scene.archive, nameOf(FIRST)), gz, copy, link];
  const { stdout, code } = await tellStatus(files);
  assert.equal(code, 0);
  const full = formatLsn(lsn(lastEnd(ends, BigInt((FIRST + 1) * MIB))));
  const last = nameOf(FIRST + 3);
  assert.equal(
    stdout.replace(/[0-9]+ records/g, "N records"),
    `${files[0]}: latest LSN ${full} (N records; full)\n` +
      `${gz}: latest LSN ${full} (N records; full)\n` +
      `${copy}: latest LSN ${END} (N records; it is ${last}; the rest is empty)\n` +
      `${link}: latest LSN ${END} (N records; it is ${last}; the rest is empty)\n`,
  );
});

test("status tells which files hold no WAL, and answers 1", async () => {
  using scene = filled();
  const file = (name: string, bytes: Uint8Array | string) => {
    fs.writeFileSync(join(scene.path, name), bytes);
    return join(scene.path, name);
  };
  const told = await tellStatus([
    file("text", "hello ".repeat(100)),
    file("empty", ""),
    file("zeros", new Uint8Array(MIB)),
    file("short", segments[0]!.subarray(0, 20)),
    scene.path,
    file("cut", segments[0]!.subarray(0, 300_000)),
  ]);
  assert.equal(told.code, 1);
  const lines = told.stdout.trimEnd().split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
  assert.deepEqual(lines.slice(0, 5), [
    "no WAL: it begins with no segment's first page",
    "no WAL: it has 0 bytes, too few for a page of WAL",
    "no WAL: it begins with zeros: nothing was written to it yet",
    "no WAL: it has 20 bytes, too few for a page of WAL",
    "no WAL: it is no file",
  ]);
  assert.match(
    lines[5]!,
    /^latest LSN 0\/3[0-9A-F]+ \(.*the file ends there; .*300000 bytes, want 1048576\)$/,
  );
  await assert.rejects(() => tellStatus([join(scene.path, "absent")]), /Cannot read ".*absent"/);
});

for (
  const [what, words] of [
    ["files beside an archive", ["file", "-d", "x"]],
    ["a limit without --check", ["-d", "x", "--max-age", "5"]],
    ["no archive", []],
    ["-v and -q", ["-d", "x", "-v", "-q"]],
    ["a connection string that can't be right", ["-d", "x", "-c", "bogus=1"]],
  ] as const
) {
  test(`status refuses ${what}`, async () => {
    await assert.rejects(() => tellStatus(words), UsageError);
  });
}

for (const words of [["--max-lag", "x"], ["--min-free", "5 MB"], ["--max-lag-bytes", "-1"], ["-S", "A B"]]) {
  test(`status refuses ${words.join(" ")}`, async () => {
    await assert.rejects(() => tellStatus(["-d", "x", "--check", ...words]), { exitCode: 1 });
  });
}

test("status --check tells of damage that indexes show, without a look at the segments", async () => {
  using scene = filled();
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: segmentSize(MIB) };
  const worker = directIndexWorker(openDirectDisk(scene.archive), {
    identity,
    modes: { file: 0o600, directory: 0o700 },
  });
  const name = nameOf(FIRST + 1);
  const index = async () => {
    fs.rmSync(join(scene.archive, "index", `${name}.idx`), { force: true });
    await worker.index(name);
  };
  for (const number of [FIRST, FIRST + 1, FIRST + 2]) await worker.index(nameOf(number));
  const check = () => tellStatus(["-d", scene.archive, "--check"]);
  assert.equal((await check()).code, 0);
  const damaged = segments[1]!.slice();
  damaged[MIB / 2]! ^= 1;
  scene.put(name, damaged);
  await index();
  const within = await check();
  assert.equal(within.code, 1);
  assert.match(
    within.stdout,
    new RegExp(`the index of ${name} shows damage at 0/4[0-9A-F]{5}: its records do not`),
  );
  assert.equal(within.stdout.trim().split("\n").length, 1);
  // Another cluster's of the same name: right by itself.
  scene.put(name, scenery({ seed: 9 }).segments[1]!);
  await index();
  const other = await check();
  assert.equal(other.code, 1);
  assert.match(
    other.stdout,
    /shows damage at 0\/[0-9A-F]+: (it|its first record) .*, as the index of \w{24} says/,
  );
});
