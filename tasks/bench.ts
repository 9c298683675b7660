/** Benchmarks against the real peers: `deno task bench receive|push|fetch|recovery|compress|verify|find|status [PART]…`. */
import process from "node:process";
import { benchCompress } from "../tests/bench/compress.ts";
import { benchFetch, benchRecovery } from "../tests/bench/fetch.ts";
import { benchFind } from "../tests/bench/find.ts";
import { benchPush } from "../tests/bench/push.ts";
import { benchReceive } from "../tests/bench/receive.ts";
import { benchStatus } from "../tests/bench/status.ts";
import { benchVerify } from "../tests/bench/verify.ts";

const BENCHMARKS: Readonly<Record<string, (parts: readonly string[]) => Promise<void>>> = {
  receive: benchReceive,
  push: benchPush,
  fetch: benchFetch,
  recovery: benchRecovery,
  compress: benchCompress,
  status: benchStatus,
  verify: benchVerify,
  find: benchFind,
};

const [name, ...parts] = process.argv.slice(2);
const benchmark = BENCHMARKS[name ?? ""];
if (benchmark === undefined) {
  process.stderr.write(
    `Cannot run benchmark "${name ?? ""}": want one of ${Object.keys(BENCHMARKS).join(", ")}\n`,
  );
  process.exitCode = 2;
} else {
  await benchmark(parts);
}
