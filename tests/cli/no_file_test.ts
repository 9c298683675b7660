/** Something else stands under a file's name. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { denoCommand } from "../../tasks/install_locked.ts";
import { FIRST, nameOf, Scene, scenery } from "../restore/restore_scene.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 180_000;
/** Whoever opens a pipe waits for ever. */
const HANGING_MS = 20_000;
const { segments } = scenery();
const SEGMENT = nameOf(FIRST + 2);
const HISTORY = "00000002.history";
const GROWING = `inprogress/${nameOf(FIRST + 3)}`;

/** Each place of an archive, and what each command answers while a pipe stands there. */
const NO_HISTORY = 1;
const PLACES: readonly (readonly [place: string, codes: Readonly<Partial<Record<CommandName, number>>>])[] = [
  ["archive.json", { status: 3, find: 3, verify: 3, segment: 200, history: 200, gap: 3, push: 1 }],
  ["gaps.jsonl", { status: 3, verify: 3, gap: 3 }],
  ["lock", {}],
  [HISTORY, { find: 3, verify: 1, history: 200, gap: 3 }],
  [SEGMENT, { verify: 1 }],
  [`${SEGMENT}.zst`, { verify: 1 }],
  [`${SEGMENT}.00000028.backup`, {}],
  [`index/${SEGMENT}.idx`, {}],
  [GROWING, { verify: 1 }],
  [`${GROWING}.saved-1`, { verify: 1 }],
  [`conflicts/${SEGMENT}-01234567`, {}],
  ["index", {}],
  ["inprogress", { status: 3, find: 3, verify: 3, history: 200, gap: 3, push: 1 }],
  ["conflicts", { status: 3, verify: 3, gap: 3, push: 1 }],
];
/** What status tells though it goes on. */
const TOLD: ReadonlySet<string> = new Set([HISTORY, SEGMENT, GROWING, `${GROWING}.saved-1`]);
type CommandName = "status" | "find" | "verify" | "segment" | "history" | "gap" | "push";
const COMMANDS: Readonly<Record<CommandName, { readonly words: readonly string[]; readonly code: number }>> =
  {
    status: { words: ["status"], code: 0 },
    find: { words: ["find", "--lsn", "0/420000"], code: 0 },
    verify: { words: ["verify", "--quiet"], code: 0 },
    segment: { words: ["fetch", nameOf(FIRST), "pg_wal/RECOVERYXLOG"], code: 0 },
    history: { words: ["fetch", HISTORY, "pg_wal/RECOVERYHISTORY"], code: NO_HISTORY },
    gap: { words: ["gap", "list"], code: 0 },
    push: { words: ["push", `pg_wal/${nameOf(FIRST)}`], code: 0 },
  };

function run(scene: Scene, words: readonly string[]) {
  const [command, ...first] = denoCommand();
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("WALVAULT_A"));
  const names = words[0] === "gap" ? words.slice(0, 2) : words.slice(0, 1);
  const { status, signal, stdout, stderr } = spawnSync(command, [
    ...[...first, "run", "--allow-all", "--cached-only", `--config=${ROOT}/deno.json`, join(ROOT, "cli.ts")],
    ...[...names, "-d", scene.archive, ...words.slice(names.length)],
  ], {
    cwd: scene.data,
    encoding: "utf8",
    env: { ...Object.fromEntries(inherited), NO_COLOR: "1" },
    timeout: HANGING_MS,
    killSignal: "SIGKILL",
  });
  return { code: status ?? signal, said: stdout + stderr };
}

for (const [place, codes] of PLACES) {
  test(`nobody waits for a pipe under the name ${place}`, { timeout }, () => {
    using scene = new Scene();
    scene.fill(segments, 3);
    const path = join(scene.archive, place);
    fs.rmSync(path, { force: true, recursive: true });
    fs.mkdirSync(dirname(path), { recursive: true });
    assert.equal(spawnSync("mkfifo", [path]).status, 0);
    fs.mkdirSync(join(scene.data, "pg_wal"), { recursive: true });
    fs.writeFileSync(join(scene.data, "pg_wal", nameOf(FIRST)), segments[0]!);
    for (const name of Object.keys(COMMANDS) as CommandName[]) {
      const { words, code } = COMMANDS[name];
      const outcome = run(scene, words);
      const want = codes[name] ?? code;
      assert.equal(outcome.code, want, `${words.join(" ")}: ${outcome.said}`);
      if (want > 1) {
        assert.match(outcome.said, /a pipe, a socket or a device, want|not a directory/, words[0]);
      }
      if (name === "status" && TOLD.has(place)) {
        assert.match(outcome.said, /a pipe, a socket or a device, want a file/);
      }
      // An index is made anew in its place.
      if (!place.endsWith(".idx")) assert.ok(fs.lstatSync(path).isFIFO(), `${words[0]} leaves it there`);
    }
  });
}

test("a directory under an index's name is no index, and in nobody's way", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  fs.mkdirSync(join(scene.archive, `index/${SEGMENT}.idx/below`), { recursive: true });
  for (const name of ["status", "find", "verify", "segment", "gap"] as const) {
    const { words, code } = COMMANDS[name];
    const outcome = run(scene, words);
    assert.equal(outcome.code, code, `${words.join(" ")}: ${outcome.said}`);
  }
});

const MAKERS: readonly (readonly [string, RegExp, (path: string) => void])[] = [
  [
    "a pipe",
    /a pipe, a socket or a device, want a file/,
    (path) => assert.equal(spawnSync("mkfifo", [path]).status, 0),
  ],
  ["a directory", /a directory, want a file/, (path) => fs.mkdirSync(path)],
];
for (const [what, text, make] of MAKERS) {
  for (const name of [SEGMENT, `${SEGMENT}.zst`, HISTORY, GROWING]) {
    test(`${what} under the name ${name} is told, and nobody waits for it`, { timeout }, () => {
      using scene = new Scene();
      scene.fill(segments, 3);
      fs.rmSync(join(scene.archive, name), { force: true });
      make(join(scene.archive, name));
      const told = (words: readonly string[], code: number, want = text) => {
        const outcome = run(scene, words);
        assert.equal(outcome.code, code, `${words.join(" ")}: ${outcome.said}`);
        assert.match(outcome.said, want, words.join(" "));
      };
      told(["verify", "--quiet"], 1);
      const isSpare = name === `${SEGMENT}.zst`;
      const found: readonly [number, RegExp] = name === SEGMENT
        ? [1, /lies behind WAL that is damaged/]
        : name === HISTORY
        ? [3, text]
        : [0, /recovery_target_lsn/];
      told(["find", "--lsn", "0/520000"], ...found);
      const asked = name === GROWING ? nameOf(FIRST + 3) : name.replace(".zst", "");
      if (!isSpare) told(["status", "--check"], 1);
      // The plain form is right.
      if (isSpare) return told(["fetch", asked, "pg_wal/RECOVERYXLOG"], 0, /^$/);
      told(["fetch", asked, "pg_wal/RECOVERYXLOG"], 200);
      fs.writeFileSync(join(scene.data, "standby.signal"), "");
      told(["fetch", asked, "pg_wal/RECOVERYXLOG"], 1);
    });
  }
}
