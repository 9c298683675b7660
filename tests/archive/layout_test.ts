import assert from "node:assert/strict";
import { test } from "node:test";
import {
  classifyOther,
  inProgressPath,
  isPushedName,
  nameOf,
  parseArchiveName,
  parseBroughtName,
  parseInProgressName,
  pushedPath,
  savedPath,
  temporaryName,
} from "../../lib/archive/layout.ts";
import { segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const SIZE = segmentSize(16 << 20);
const NAME = "0000000A00000001000000FF";

test("parseArchiveName() knows what stands in an archive", () => {
  const segment = { kind: "segment", timeline: 10, number: 0x1ffn };
  const cases: readonly (readonly [string, object])[] = [
    [NAME, segment],
    [`${NAME}.zst`, segment],
    [`${NAME}.gz`, segment],
    [`${NAME}.lz4`, segment],
    [`${NAME}.xz`, { kind: "foreign" }],
    [`${NAME}.gz.zst`, { kind: "foreign" }],
    [`${NAME}.partial`, { kind: "foreign" }],
    [`${NAME}.tmp`, { kind: "foreign" }],
    [NAME.toLowerCase(), { kind: "foreign" }],
    ["0000000A0000000100000100", { kind: "foreign" }], // 256 segments of 16 MiB make a log
    ["000000000000000100000001", { kind: "foreign" }], // no timeline 0
    ["0000000A.history", { kind: "history", timeline: 10 }],
    ["0000000a.history", { kind: "foreign" }],
    ["00000000.history", { kind: "foreign" }],
    ["0000000A.history.tmp", { kind: "temporary" }],
    ["archive.json.tmp", { kind: "temporary" }],
    [`${NAME}.00000028.backup`, { kind: "own" }],
    [`${NAME}.28.backup`, { kind: "foreign" }],
    ["archive.json", { kind: "own" }],
    ["lock", { kind: "own" }],
    ["inprogress", { kind: "own" }],
    ["conflicts", { kind: "own" }],
    ["backups", { kind: "own" }],
    ["index", { kind: "own" }],
    ["gaps.jsonl", { kind: "own" }],
    ["lost+found", { kind: "neutral" }],
    [".snapshot", { kind: "neutral" }],
    ["", { kind: "foreign" }],
    ["..", { kind: "foreign" }],
    ["PG_VERSION", { kind: "foreign" }],
  ];
  for (const [name, want] of cases) assert.deepEqual(parseArchiveName(name, SIZE), want, name);
});

test("classifyOther() says foreign to segments: without a size their names mean nothing", () => {
  assert.deepEqual(classifyOther(NAME), { kind: "foreign" });
  assert.deepEqual(classifyOther("lock"), { kind: "own" });
});

test("parseInProgressName() takes growing files and saved copies, and nothing else", () => {
  const segment = { timeline: 10, number: 0x1ffn };
  assert.deepEqual(parseInProgressName(NAME, SIZE), { ...segment, savedCount: undefined });
  assert.deepEqual(parseInProgressName(`${NAME}.saved-1`, SIZE), { ...segment, savedCount: 1 });
  assert.deepEqual(parseInProgressName(`${NAME}.saved-120`, SIZE), { ...segment, savedCount: 120 });
  for (
    const end of [".saved-0", ".saved-01", ".saved-", ".saved-1x", ".saved-9999999999", ".tmp", ".zst", "\n"]
  ) {
    assert.equal(parseInProgressName(NAME + end, SIZE), undefined, end);
  }
  assert.equal(parseInProgressName("0000000A0000000100000100", SIZE), undefined);
});

test("names are made as they are parsed", () => {
  const segment = { timeline: timelineId(10), number: segmentNumber(0x1ffn) };
  assert.equal(nameOf(segment, SIZE), NAME);
  assert.equal(inProgressPath(NAME), `inprogress/${NAME}`);
  assert.equal(savedPath(NAME, 3), `inprogress/${NAME}.saved-3`);
  assert.equal(temporaryName("archive.json"), "archive.json.tmp");
});

test("parseBroughtName() knows what a server hands to its archive_command", () => {
  const segment = "00000001000000000000000A";
  assert.deepEqual(parseBroughtName(segment), { kind: "segment", segment, partial: false });
  assert.deepEqual(parseBroughtName(`${segment}.partial`), { kind: "segment", segment, partial: true });
  assert.deepEqual(parseBroughtName("0000000A.history"), { kind: "history", timeline: 10 });
  assert.deepEqual(parseBroughtName(`${segment}.00000028.backup`), {
    kind: "backup label",
    segment,
    offset: 0x28,
  });
  for (
    const name of [
      "",
      "archive.json",
      segment.toLowerCase(),
      `${segment}.gz`,
      `${segment}.partial.gz`,
      `${segment}.backup`,
      `${segment}.00000028.partial`,
      "00000000.history",
      `../${segment}`,
      `${segment}\n`,
    ]
  ) assert.equal(parseBroughtName(name), undefined, name);
});

test("isPushedName() knows what a push left, and of which file", () => {
  const segment = "00000001000000000000000A";
  const entry = pushedPath(segment, "0a9z").slice("inprogress/".length);
  assert.ok(isPushedName(entry));
  assert.ok(isPushedName(entry, segment));
  assert.ok(!isPushedName(entry, "00000001000000000000000B"));
  assert.ok(!isPushedName(`${segment}.partial.push-1`, segment));
  assert.ok(isPushedName(`${segment}.partial.push-1`, `${segment}.partial`));
  for (const other of [segment, `${segment}.saved-1`, `${segment}.push-`, "push-1"]) {
    assert.ok(!isPushedName(other), other);
    assert.equal(parseInProgressName(`${segment}.push-1`, segmentSize(1 << 24)), undefined);
  }
});
