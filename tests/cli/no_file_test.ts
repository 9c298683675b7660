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

function run(scene: Scene, words: readonly string[]) {
  const [command, ...first] = denoCommand();
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("WALVAULT_A"));
  const { status, signal, stdout, stderr } = spawnSync(command, [
    ...[...first, "run", "--allow-all", "--cached-only", `--config=${ROOT}/deno.json`, join(ROOT, "cli.ts")],
    ...[words[0]!, "-d", scene.archive, ...words.slice(1)],
  ], {
    cwd: scene.data,
    encoding: "utf8",
    env: { ...Object.fromEntries(inherited), NO_COLOR: "1" },
    timeout: HANGING_MS,
    killSignal: "SIGKILL",
  });
  return { code: status ?? signal, said: stdout + stderr };
}

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
