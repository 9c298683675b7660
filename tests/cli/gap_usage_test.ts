import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { encodeGapRecord } from "../../lib/archive/gaps.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { IDENTITY, walOf } from "../archive/on_sim_disk.ts";
import { inTemporaryDirectory } from "../archive/temporary_directory.ts";
import { programWords } from "../postgres/receiver.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";

const timeout = 120_000;

function walvault(...words: string[]) {
  const [command = "", ...first] = programWords();
  const { status, stdout, stderr } = spawnSync(command, [...first, ...words], {
    encoding: "utf8",
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", NO_COLOR: "1" },
  });
  return { code: status, stdout, stderr };
}

test(
  "gap refuses what can't be carried out, with a hint and exit code 2",
  { timeout },
  () =>
    inTemporaryDirectory((directory) => {
      const d = `--archive=${directory}`;
      for (
        const [words, problem] of [
          [["gap"], /Commands:/],
          [["gap", "mend"], /unknown command 'mend'/],
          [["gap", "list"], /No archive is given/],
          [["gap", "list", d, "--bogus"], /unknown option '--bogus'[^]*Try "walvault gap list --help"/],
          [["gap", "list", d], /it is no archive, as there is no archive\.json in it/],
          [["gap", "list", `${d}/none`], /there is no such directory; is its disk mounted\?\nhint: Name the/],
          [["gap", "heal", d, "-v", "-q"], /exclude each other/],
          [["gap", "heal", d, "--peer="], /want a directory/],
          [["gap", "accept", d, "--from=0/1", "--reason=x"], /--timeline <number>' not specified/],
          [["gap", "accept", d, "--timeline=1", "--from=0/1"], /--reason <text>' not specified/],
          [["gap", "accept", d, "--timeline=0", "--from=0/1", "--reason=x"], /want a timeline/],
          [["receive", d, "--peer=/x", "--no-hard-links"], /--peer needs hard links/],
        ] as const
      ) {
        const { code, stdout, stderr } = walvault(...words);
        assert.equal(code, 2, `${words.join(" ")}: ${stdout}${stderr}`);
        assert.match(stderr, problem);
        assert.equal(stdout, "");
      }
      assert.deepEqual(fs.readdirSync(directory), [], "nothing was written");
      for (const name of ["list", "heal", "accept"]) {
        const { code, stdout } = walvault("gap", name, "--help");
        assert.equal(code, 0);
        assert.match(stdout, /Exit codes:/);
      }
    }),
);

test(
  "gap list and accept, of an archive with nothing but a recorded gap",
  { timeout },
  () =>
    inTemporaryDirectory((directory) => {
      const d = `--archive=${directory}`;
      fs.writeFileSync(join(directory, "archive.json"), encodeIdentity(IDENTITY));
      fs.mkdirSync(join(directory, "inprogress"));
      assert.deepEqual(walvault("gap", "list", d), { code: 0, stdout: "no gap is open\n", stderr: "" });
      for (const name of ["000000010000000000000003", "000000010000000000000007"]) {
        fs.writeFileSync(join(directory, name), new Uint8Array(MIB));
      }
      fs.writeFileSync(
        join(directory, "gaps.jsonl"),
        encodeGapRecord({
          timeline: timelineId(1),
          startLsn: lsn(0x400000n),
          endLsn: lsn(0x600000n),
          recordedAt: "2025-11-25T13:00:00.000Z",
          reason: "no server has it any more",
          server: "db:5432",
          answer: "it has been removed",
        }),
      );
      const listed = walvault("gap", "list", d);
      assert.equal(listed.code, 1);
      assert.equal(
        listed.stdout,
        `State  Timeline  From      To        Segments  WAL     First file
open   1         0/400000  0/600000  2         2.1 MB  000000010000000000000004
       recorded 2025-11-25 13:00:00.000+00: no server has it any more; db:5432: it has been removed
open   1         0/600000  0/700000  1         1.0 MB  000000010000000000000006
       not recorded yet
2 gaps are open: no restore can go across; bring what is missing with gap heal or push, or give it up with gap accept
`,
      );
      const one = walvault(
        "gap",
        "accept",
        d,
        "--timeline=1",
        "--from=0/412345",
        "--to=0/500001",
        "--reason=x",
      );
      assert.equal(one.code, 0, one.stderr);
      assert.match(one.stdout, /^accepted: timeline 1, 0\/400000 to 0\/600000, 2 segments\n/);
      const rest = walvault("gap", "accept", d, "--timeline=1", "--from=0/600000", "--reason=y");
      assert.match(rest.stdout, /^accepted: timeline 1, 0\/600000 to 0\/700000, 1 segment\n/);
      assert.equal(walvault("gap", "list", d).code, 0);
      const { stdout, code } = walvault("gap", "list", d, "--json");
      const { gaps } = JSON.parse(stdout);
      assert.deepEqual(
        gaps.map((gap: { state: string; recorded: boolean }) => [gap.state, gap.recorded]),
        [["accepted", true], ["accepted", false]],
      );
      assert.equal(code, 0);
      fs.appendFileSync(join(directory, "gaps.jsonl"), '{"walvault":"gap","ver');
      assert.match(walvault("gap", "list", d).stdout, /1 line of gaps\.jsonl can't be read/);
    }),
);

test(
  "gap list, status and verify begin where something was only begun, however far on push brought a segment",
  { timeout },
  () =>
    inTemporaryDirectory((directory) => {
      const d = `--archive=${directory}`;
      fs.writeFileSync(join(directory, "archive.json"), encodeIdentity(IDENTITY));
      fs.mkdirSync(join(directory, "inprogress"));
      const { segments } = buildWal({
        startLsn: lsn(0x300000n),
        segmentBytes: MIB,
        records: Array.from({ length: 700 }, () => ({ totalBytes: 5000 })),
      });
      const begun = segments[0]!.slice().fill(0, MIB / 2);
      fs.writeFileSync(join(directory, "inprogress", "000000010000000000000003"), begun);
      fs.writeFileSync(join(directory, "000000010000000000000005"), segments[2]!);
      const listed = walvault("gap", "list", d);
      assert.equal(listed.code, 1);
      assert.match(listed.stdout, /\nopen +1 +0\/300000 +0\/500000 +2 +.* 0+10+3\n/);
      const { code, stdout } = walvault("status", d, "--check");
      assert.equal(code, 1);
      assert.match(stdout, /2 segments from 0+10+3 on are missing \(0\/300000 to 0\/500000\)/);
      assert.match(walvault("verify", d, "-q").stdout, /hole: 0+10+4/);
    }),
);

test(
  "gap heal writes down no gap as healed while nothing stands behind what fills it, and a clone's WAL would look right",
  { timeout },
  () =>
    inTemporaryDirectory((directory) => {
      const d = `--archive=${directory}`;
      const wal = walOf({ bytes: 5 * MIB });
      const put = (name: string, index: number) =>
        fs.writeFileSync(join(directory, name), wal.subarray(index * MIB, (index + 1) * MIB), {
          mode: 0o600,
        });
      fs.writeFileSync(join(directory, "archive.json"), encodeIdentity(IDENTITY));
      fs.mkdirSync(join(directory, "inprogress"));
      for (const index of [0, 1, 2]) put(`00000001000000000000000${3 + index}`, index);
      const ledger = join(directory, "gaps.jsonl");
      fs.writeFileSync(
        ledger,
        encodeGapRecord({
          timeline: timelineId(1),
          startLsn: lsn(0x400000n),
          endLsn: lsn(0x600000n),
          recordedAt: "2026-01-01T00:00:00.000Z",
          reason: "no server has it any more",
          server: "db:5432",
          answer: "it has been removed",
        }),
        { mode: 0o600 },
      );
      const early = walvault("gap", "heal", d, "-q");
      assert.equal(early.code, 1, early.stdout + early.stderr);
      assert.match(
        early.stdout,
        /^000000010000000000000005 is here, and not proven: nothing stands right behind it yet/,
      );
      assert.doesNotMatch(early.stdout, /move away/);
      assert.doesNotMatch(fs.readFileSync(ledger, "utf8"), /"healed"/);
      put("inprogress/000000010000000000000006", 3);
      const { code, stdout, stderr } = walvault("gap", "heal", d, "-q");
      assert.equal(code, 0, stdout + stderr);
      assert.match(fs.readFileSync(ledger, "utf8"), /"healed"/);
    }),
);
