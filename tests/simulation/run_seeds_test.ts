import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

test("the long tier plays seeds on several cores, and ends with how many", async () => {
  const program = fileURLToPath(new URL("run_seeds.ts", import.meta.url));
  const child = spawn(process.env["WALVAULT_DENO"] ?? process.execPath, ["run", "--allow-all", program], {
    env: {
      ...process.env,
      WALVAULT_SIMULATION_SECONDS: "3",
      WALVAULT_SIMULATION_SEED: "70000",
      WALVAULT_SIMULATION_PROCESSES: "2",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => output += text);
  const code = await new Promise((resolve) => child.once("close", resolve));
  assert.equal(code, 0, output);
  assert.match(output, /^seeds from 70000 on, for 3 s, in 2 processes\n/);
  const [, seeds] = /^(\d+) seeds in \d+ s, .* 0 failed\n$/m.exec(output) ?? [];
  assert.ok(Number(seeds) >= 2, output);
});
