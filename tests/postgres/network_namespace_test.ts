import assert from "node:assert/strict";
import { test } from "node:test";
import { NetworkNamespace, whyNoNamespace } from "./network_namespace.ts";

const problem = whyNoNamespace();
const why = problem === undefined ? "" : ` (skipped: ${problem})`;

test(`NetworkNamespace passes nothing while something is taken from it, and all after heal()${why}`, {
  skip: problem !== undefined,
}, () => {
  using network = new NetworkNamespace();
  const faults: readonly (readonly [string, () => void])[] = [
    ["link", () => network.takeLink()],
    ["what comes in", () => network.dropPackets("INPUT")],
    ["what goes out", () => network.dropPackets("OUTPUT")],
    ["address", () => network.takeAddress()],
  ];
  assert.equal(network.passes(), true, "at first");
  for (const [name, inject] of faults) {
    inject();
    assert.equal(network.isSilent(), true, name);
    network.heal();
    assert.equal(network.passes(), true, `after ${name}`);
  }
});
