import { test } from "node:test";
import { compareWalEnds } from "./wal_end.ts";

test("after kill -9 valid WAL ends where the server itself goes on", { timeout: 300_000 }, async (t) => {
  const { ends, overwritten } = await compareWalEnds({ rounds: 5, seed: 4 });
  t.diagnostic?.(`${ends.join(", ")}; ${overwritten} open records given up`);
});
