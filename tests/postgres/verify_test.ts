import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { before, describe, test } from "node:test";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { startCluster } from "./cluster.ts";
import { walvault } from "./pusher.ts";
import { caughtUp, MIB, startReceiver, WorkDirectory } from "./receiver.ts";
import { findProgram } from "./servers.ts";
import {
  compress,
  makeThreeTimelines,
  problemsOf,
  SEGMENT_SIZE,
  type ThreeTimelines,
  verifyIn,
  writeArchive,
} from "./verify_scene.ts";
import { Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;

/** A segment in the middle of the first timeline, with the ones around it. */
function middle(wal: ThreeTimelines): readonly [before: string, name: string, after: string] {
  const names = [...wal.complete.keys()].filter((name) => name.startsWith("00000001"));
  const index = Math.floor(names.length / 2);
  return [names[index - 1]!, names[index]!, names[index + 1]!];
}

/** Exclusive-ors a byte. */
function flip(path: string, offset: number): void {
  const bytes = fs.readFileSync(path);
  bytes[offset]! ^= 1;
  fs.writeFileSync(path, bytes);
}

describe("verify of an archive over three timelines", { timeout }, () => {
  let wal: ThreeTimelines;
  before(async () => void (wal = await makeThreeTimelines()), { timeout });

  const inArchive = async (use: (path: string) => Promise<void> | void) => {
    using directory = new WorkDirectory();
    const path = directory.archive();
    writeArchive(path, wal);
    await use(path);
  };

  for (const form of ["plain", "zstd", "gzip", "lz4"] as const) {
    test(`finds it all right, ${form}`, { timeout }, async () => {
      using directory = new WorkDirectory();
      const path = directory.archive();
      writeArchive(path, wal, [form]);
      const report = await verifyIn(path);
      assert.deepEqual(report.findings, []);
      assert.equal(report.problemCount, 0);
      assert.equal(report.layout, "archive");
      assert.equal(report.segments, wal.complete.size + wal.growing.size);
      assert.deepEqual(report.timelines.map(({ timeline }) => timeline), [1, 2, 3]);
      assert.deepEqual(
        report.usable.map(({ timeline, continues }) => [timeline, continues]),
        [[1, false], [2, true], [3, true]],
      );
      for (const [index, { endLsn }] of report.usable.entries()) {
        assert.equal(endLsn, report.timelines[index]?.endLsn);
      }
    });
  }

  test("tells the same on the command line, in words and as JSON", { timeout }, () =>
    inArchive((path) => {
      const text = walvault(["verify", "--archive", path]);
      assert.equal(text.code, 0, text.stderr);
      assert.equal(text.stderr, "");
      assert.match(text.stdout, /^archive ".*" of cluster [0-9]+, PostgreSQL [0-9]+, 1MB segments\n/);
      assert.match(text.stdout, /\nall right: [0-9]+ files, [0-9]+ records, [0-9.]+ MB in [0-9.]+ s\n$/);
      for (const jobs of ["1", "3"]) {
        const json = walvault(["verify", "--archive", path, "--json", "--jobs", jobs]);
        assert.equal(json.code, 0, json.stderr);
        const answer = JSON.parse(json.stdout);
        assert.equal(answer.ok, true);
        assert.equal(answer.systemIdentifier, wal.systemIdentifier.toString());
        assert.equal(answer.segmentBytes, MIB);
        assert.equal(answer.jobs, Number(jobs));
        assert.deepEqual(answer.findings, []);
        assert.equal(answer.timelines.length, 3);
      }
    }));

  test(
    "names the file, the LSN, got and want, and what can still be used",
    { timeout },
    () =>
      inArchive((path) => {
        const [, name] = middle(wal);
        flip(join(path, name), 300_000);
        const run = walvault(["verify", "--archive", path]);
        assert.equal(run.code, 1, run.stderr);
        const lsn = "[0-9A-F]+/[0-9A-F]+";
        assert.match(
          run.stdout,
          new RegExp(`\\ndamage: ${name} at ${lsn}: CRC 0x[0-9A-F]{8}, want 0x[0-9A-F]{8}\\n`),
        );
        assert.match(
          run.stdout,
          new RegExp(`\\nwhat can still be used:\\n  timeline 1: ${lsn} to ${lsn}\\n`),
        );
        assert.match(run.stdout, /\n1 problem found: /);
        const json = walvault(["verify", "--archive", path, "--json"]);
        assert.equal(json.code, 1);
        const answer = JSON.parse(json.stdout);
        assert.equal(answer.ok, false);
        assert.deepEqual(answer.findings.map((finding: { kind: string }) => finding.kind), ["damage"]);
        assert.equal(answer.findings[0].path, name);
        assert.equal(answer.usable.length, 4);
        assert.equal(answer.usable[0].endLsn, answer.findings[0].lsn);
      }),
  );

  const cases: readonly (readonly [
    what: string,
    change: (path: string) => void,
    want: readonly (readonly [kind: string, path: RegExp, problem: RegExp])[],
  ])[] = [
    ["a missing segment", (path) => fs.rmSync(join(path, middle(wal)[1])), [
      ["hole", /^[0-9A-F]{24}$/, /is missing: [0-9A-F]{24} is there/],
    ]],
    ["a cut segment", (path) => fs.truncateSync(join(path, middle(wal)[1]), 500_000), [
      ["damage", /^[0-9A-F]{24}$/, /500000 bytes, want 1048576/],
    ]],
    ["an empty segment", (path) => fs.writeFileSync(join(path, middle(wal)[1]), new Uint8Array(MIB)), [
      ["damage", /^[0-9A-F]{24}$/, /nothing but zeros/],
    ]],
    ["a segment that is too long", (path) => fs.appendFileSync(join(path, middle(wal)[1]), "x"), [
      ["damage", /^[0-9A-F]{24}$/, /1048577 bytes, want 1048576/],
    ]],
    ["a segment's name on a directory", (path) => {
      fs.rmSync(join(path, middle(wal)[1]));
      fs.mkdirSync(join(path, middle(wal)[1]));
    }, [["damage", /^[0-9A-F]{24}$/, /a directory, want a file/], ["hole", /^[0-9A-F]{24}$/, /is missing/]]],
    ["another cluster's segment", (path) => flip(join(path, middle(wal)[1]), 24), [
      ["identity", /^[0-9A-F]{24}$/, /system identifier [0-9]+, want [0-9]+/],
    ]],
    ["a segment under its neighbour's name", (path) => {
      const [before, name] = middle(wal);
      fs.copyFileSync(join(path, before), join(path, name));
    }, [["damage", /^[0-9A-F]{24}$/, /page address .*, want its own/]]],
    ["a damaged identity", (path) => flip(join(path, "archive.json"), 60), [
      ["identity", /^archive\.json$/, /./],
    ]],
    ["another cluster's identity", (path) => {
      const identity = { systemIdentifier: 1n, segmentSize: SEGMENT_SIZE };
      fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
    }, []],
    ["a missing history", (path) => fs.rmSync(join(path, "00000002.history")), [
      ["history", /^00000002\.history$/, /it is missing/],
    ]],
    [
      "a cut history",
      (path) =>
        fs.truncateSync(join(path, "00000003.history"), fs.statSync(join(path, "00000003.history")).size - 5),
      [
        ["history", /^00000003\.history$/, /cut off/],
      ],
    ],
    ["a fork that is elsewhere", (path) => {
      const text = fs.readFileSync(join(path, "00000003.history"), "utf8");
      const [, at = ""] = /\n2\t0\/([0-9A-F]+)/.exec(text) ?? [];
      const other = (parseInt(at, 16) - 8).toString(16).toUpperCase();
      fs.writeFileSync(join(path, "00000003.history"), text.replace(`0/${at}`, `0/${other}`));
    }, [["history", /^00000003\.history$/, /it begins at .*, want .* as ".*" says/]]],
    ["histories that contradict each other", (path) => {
      const text = fs.readFileSync(join(path, "00000003.history"), "utf8");
      fs.writeFileSync(join(path, "00000003.history"), text.replace(/^1\t0\/([0-9A-F])/, "1\t0/2$1"));
    }, [["history", /^00000003\.history$/, /want timeline 1 up to/]]],
    ["two forms of one segment, one of them another one's", (path) => {
      const [before, name] = middle(wal);
      fs.writeFileSync(join(path, `${name}.zst`), compress(wal.complete.get(before)!, "zstd"));
    }, [["damage", /\.zst$/, /page address/]]],
    ["a saved copy with other bytes", (path) => {
      const name = [...wal.growing.keys()].at(-1)!;
      fs.copyFileSync(join(path, "inprogress", name), join(path, "inprogress", `${name}.saved-1`));
      // Padding of a page's header: each copy is right by itself.
      flip(join(path, "inprogress", `${name}.saved-1`), 8192 + 20);
    }, [["conflict", /^inprogress\/.*\.saved-1$/, /other WAL than/]]],
    ["a tail that was changed", (path) => {
      const name = [...wal.growing.keys()].at(-1)!;
      flip(join(path, "inprogress", name), 9000);
    }, [["damage", /^inprogress\//, /with a valid record at|with more WAL behind it/]]],
    ["a tail where more follows", (path) => {
      const [, name] = middle(wal);
      const bytes = Uint8Array.from(wal.complete.get(name)!).fill(0, 300_000);
      fs.rmSync(join(path, name));
      fs.writeFileSync(join(path, "inprogress", name), bytes);
    }, [["hole", /^inprogress\//, /its WAL ends at/]]],
  ];
  for (const [what, change, want] of cases) {
    test(`finds ${what}`, { timeout }, () =>
      inArchive(async (path) => {
        change(path);
        const report = await verifyIn(path);
        const problems = problemsOf(report);
        if (want.length === 0) {
          assert.equal(problems.length, wal.complete.size + wal.growing.size);
          assert.ok(problems.every(({ kind }) => kind === "identity"));
          return;
        }
        const lines = problems.map(({ kind, path, problem }) => `${kind} ${path}: ${problem}`).join("\n");
        assert.equal(problems.length, want.length, lines);
        for (const [index, [kind, file, problem]] of want.entries()) {
          assert.equal(problems[index]?.kind, kind, lines);
          assert.match(problems[index]?.path ?? "", file);
          assert.match(problems[index]?.problem ?? "", problem);
        }
      }));
  }

  test(
    "has nothing against copies that agree, nor against files of others",
    { timeout },
    () =>
      inArchive(async (path) => {
        const [, name] = middle(wal);
        fs.writeFileSync(join(path, `${name}.zst`), compress(wal.complete.get(name)!, "zstd"));
        const tail = [...wal.growing.keys()].at(-1)!;
        const cut = Uint8Array.from(wal.growing.get(tail)!).fill(0, 100_000);
        fs.writeFileSync(join(path, "inprogress", `${tail}.saved-1`), cut);
        fs.writeFileSync(join(path, "inprogress", `${tail}.saved-2`), new Uint8Array(MIB));
        fs.writeFileSync(join(path, "notes.txt"), "");
        fs.writeFileSync(join(path, "conflicts", `${name}-01234567`), "");
        fs.mkdirSync(join(path, "lost+found"));
        const { findings, problemCount } = await verifyIn(path);
        assert.equal(problemCount, 0);
        assert.deepEqual(findings.map((finding) => finding.path).sort(), [
          `conflicts/${name}-01234567`,
          "notes.txt",
        ]);
      }),
  );

  test("makes the indexes that are missing or of other bytes", { timeout }, () =>
    inArchive(async (path) => {
      const userId = process.geteuid?.();
      const indexes = () => fs.readdirSync(join(path, "index")).map((name) => name.slice(0, 24)).sort();
      assert.deepEqual((await verifyIn(path, { userId })).findings, []);
      assert.deepEqual(indexes(), [...wal.complete.keys()].sort());
      const [, name] = middle(wal);
      const index = join(path, "index", `${name}.idx`);
      const right = fs.readFileSync(index);
      // The last one waits for the segment behind it, and is made each time.
      const others = [...wal.complete.keys()].filter((each) => each !== name && each.startsWith("00000001"));
      const written = () =>
        others.slice(0, -1).map((each) => fs.statSync(join(path, "index", `${each}.idx`)).mtimeMs).join();
      const before = written();
      // No record has the padding of a page's header: only the index knows what it was.
      flip(join(path, name), 8192 + 20);
      const { findings, problemCount } = await verifyIn(path, { userId });
      assert.equal(problemCount, 0);
      assert.deepEqual(findings.map(({ kind, path }) => [kind, path]), [["note", name]]);
      assert.notDeepEqual(fs.readFileSync(index), right);
      flip(join(path, name), 8192 + 20);
      await verifyIn(path, { userId });
      assert.deepEqual(fs.readFileSync(index), right);
      fs.writeFileSync(index, right.subarray(0, 100));
      assert.deepEqual((await verifyIn(path, { userId })).findings, []);
      assert.deepEqual(fs.readFileSync(index), right);
      assert.equal(written(), before);
      fs.rmSync(join(path, "index"), { recursive: true });
      await verifyIn(path, { userId: (userId ?? 0) + 1 });
      assert.ok(!fs.existsSync(join(path, "index")), "made by somebody else than the owner");
    }));

  test(
    "a range is proven alone, and a hole outside of it does not count",
    { timeout },
    () =>
      inArchive(async (path) => {
        const [before, name, after] = middle(wal);
        fs.rmSync(join(path, before));
        const from = { segment: name };
        const right = await verifyIn(path, { range: { from, to: { segment: after } } });
        assert.equal(right.problemCount, 0);
        assert.equal(right.segments, 2);
        const lineage = await verifyIn(path, { range: { from, timeline: timelineId(2) } });
        assert.equal(lineage.problemCount, 0);
        assert.deepEqual(lineage.timelines.map(({ timeline }) => timeline), [1, 2]);
        const early = await verifyIn(path, { range: { from: { lsn: parseLsn("0/100000") } } });
        assert.deepEqual(problemsOf(early).map(({ kind }) => kind), ["hole", "hole"]);
        const late = await verifyIn(path, { range: { to: { lsn: parseLsn("1/0") } } });
        assert.deepEqual(problemsOf(late).map(({ kind }) => kind), ["hole", "hole"]);
        const nothing = await verifyIn(path, { range: { from: { lsn: parseLsn("1/0") } } });
        assert.match(problemsOf(nothing)[0]?.problem ?? "", /no WAL of the range/);
      }),
  );

  test("as a directory of pg_receivewal it needs no identity", { timeout }, async () => {
    using directory = new WorkDirectory();
    const path = directory.archive();
    for (const [name, bytes] of [...wal.complete, ...wal.histories]) {
      fs.writeFileSync(join(path, name), bytes);
    }
    for (const [name, bytes] of wal.growing) fs.writeFileSync(join(path, `${name}.partial`), bytes);
    const { layout, findings, origin, segments } = await verifyIn(path);
    assert.deepEqual(findings, []);
    assert.equal(layout, "plain");
    assert.equal(segments, wal.complete.size + wal.growing.size);
    assert.equal(origin?.systemIdentifier, wal.systemIdentifier);
    // One of nine that says something else does not decide.
    flip(join(path, [...wal.complete.keys()][0]!), 24);
    const changed = await verifyIn(path);
    assert.deepEqual(problemsOf(changed).map(({ kind }) => kind), ["identity"]);
    assert.equal(changed.origin?.systemIdentifier, wal.systemIdentifier);
  });
});

test("verify says what is no archive", () => {
  using directory = new WorkDirectory();
  const empty = walvault(["verify", "--archive", directory.archive("empty")]);
  assert.equal(empty.code, 3);
  assert.match(empty.stderr, /it has no archive\.json and no WAL/);
  const absent = walvault(["verify", "--archive", directory.file("absent")]);
  assert.equal(absent.code, 3);
  assert.match(absent.stderr, /there is no such directory/);
  fs.mkdirSync(join(directory.archive("data"), "pg_wal"));
  fs.mkdirSync(join(directory.file("data"), "global"));
  assert.match(walvault(["verify", "--archive", directory.file("data")]).stderr, /want ".*data\/pg_wal"/);
  for (const words of [["--from", "x"], ["--jobs", "0"], ["--timeline", "0"], ["--verbose", "--quiet"]]) {
    assert.equal(
      walvault(["verify", "--archive", directory.file("empty"), ...words]).code,
      2,
      words.join(" "),
    );
  }
});

test("verify finds a server's pg_wal all right: under load, killed, with files that wait for their turn", {
  timeout,
}, async () => {
  await using cluster = await startCluster({
    segmentBytes: MIB,
    settings: { min_wal_size: "8MB", max_wal_size: "8MB", wal_keep_size: "2MB" },
  });
  await cluster.sql(TABLE);
  const directory = join(cluster.dataDirectory, "pg_wal");
  const check = async (when: string) => {
    const report = await verifyIn(directory);
    const problems = problemsOf(report).map(({ path, problem }) => `${path}: ${problem}`);
    assert.deepEqual(problems, [], when);
    assert.equal(report.layout, "server");
    return report;
  };
  for (let round = 0; round < 3; round++) {
    {
      await using ledger = new Ledger(cluster, { clients: 3, payloadBytes: 3000, prefix: `${round}-` });
      for (let look = 0; look < 6; look++) {
        await new Promise((resolve) => setTimeout(resolve, 150));
        if (look === 3) await cluster.sql("CHECKPOINT");
        await check(`under load, round ${round}`);
      }
      if (round > 0) await cluster.kill();
      await ledger.stop();
    }
    await check(`quiet, round ${round}`);
    if (round > 0) await cluster.start();
  }
  await cluster.sql("CHECKPOINT");
  await cluster.stop();
  const { timelines } = await check("stopped");
  // Damage in the middle is none of the end.
  const names = cluster.walFiles().filter((name) => name.startsWith("00000001"));
  assert.ok(names.length > (timelines[0]?.segments ?? 0), "no file waits for its turn");
  flip(join(directory, names[0]!), 500_000);
  assert.deepEqual(problemsOf(await verifyIn(directory)).map(({ path }) => path), [names[0]]);
});

test(
  "verify finds a growing archive all right, while segments are received and compressed",
  { timeout },
  async () => {
    await using cluster = await startCluster({ segmentBytes: MIB });
    await cluster.sql(TABLE);
    using directory = new WorkDirectory();
    const archive = directory.archive();
    const options = ["--slot", "walvault", "--create-slot", "--compress", "zstd"];
    await using receiver = startReceiver({ connection: cluster.conninfo(), archive, options });
    await receiver.next("streaming");
    {
      await using _ledger = new Ledger(cluster, { clients: 3, payloadBytes: 8000 });
      for (let look = 0; look < 12; look++) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        const report = await verifyIn(archive);
        assert.deepEqual(problemsOf(report), []);
      }
    }
    await caughtUp(cluster, receiver);
    await receiver.stop();
    const report = await verifyIn(archive);
    assert.deepEqual(report.findings, []);
    assert.ok(report.segments > 5);
  },
);

test(
  "verify reads what pg_receivewal of PostgreSQL 15 wrote, in each of its forms",
  { timeout },
  async (t) => {
    await using cluster = await startCluster({
      major: 15,
      segmentBytes: MIB,
      settings: { wal_keep_size: "1GB" },
    });
    const original = findProgram(cluster.programs, "pg_receivewal");
    if (original === undefined) return t.skip("this PostgreSQL 15 came without pg_receivewal");
    await cluster.sql(`${TABLE}; SELECT pg_create_physical_replication_slot('keep', true)`);
    await cluster.sql(
      "INSERT INTO work SELECT g::text, repeat(md5(g::text), 20) FROM generate_series(1, 4000) g",
    );
    const end = await cluster.value("SELECT pg_current_wal_flush_lsn()");
    await cluster.sql("INSERT INTO work VALUES ('behind', 'it')");
    using directory = new WorkDirectory();
    for (const options of [[], ["--compress=gzip:1"], ["--compress=lz4"]]) {
      const path = directory.archive(`plain${options.join("")}`);
      const run: { status: number | null; stderr: string } = spawnSync(original, [
        `--directory=${path}`,
        `--dbname=${cluster.conninfo()}`,
        "--slot=keep",
        `--endpos=${end}`,
        "--no-loop",
        ...options,
      ], { encoding: "utf8", env: { PATH: "/usr/bin:/bin" } });
      assert.equal(run.status, 0, run.stderr);
      const report = await verifyIn(path);
      assert.deepEqual(problemsOf(report), [], options.join(" "));
      assert.equal(report.layout, "plain");
      assert.ok(report.segments > 2);
      assert.ok(fs.readdirSync(path).some((name) => name.endsWith(".partial")));
    }
  },
);
