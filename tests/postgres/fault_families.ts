/** The faults that are injected between a real server and a receiver, and into both. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { FaultNeed, FaultScene } from "./fault_scene.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import type { NetworkNamespace } from "./network_namespace.ts";
import { assertHolds, compareWithServer, fingerprint, programWords, until } from "./receiver.ts";

/** One kind of fault. */
export interface FaultFamily {
  readonly name: string;
  /** Where there is none, the family is left out. */
  readonly needs?: FaultNeed;
  /** Never with commits that wait for the receiver: why, the family's own comment says. */
  readonly neverSynchronous?: true;
  /** The primary no longer has what other rounds are compared with: it comes last. */
  readonly losesWal?: true;
  readonly receiverOptions?: readonly string[];
  /** Who has the clock that is turned. */
  readonly clockOf?: "receiver" | "server";
  /** Begins the fault, lets it last for `lastsMs` or so, and ends it. Whatever is promised is proven in between. */
  readonly inject: (scene: FaultScene, lastsMs: number) => Promise<void>;
  /** What is to come of it, and came, where the receiver can't just go on. The archive is the round's own. */
  readonly outcome?: (scene: FaultScene) => Promise<string>;
}

/** A manager of failovers waits no longer; far above what it takes. */
const SHUTDOWN_MS = 15_000;
const HARM_MS = 15_000;
const OUTCOME_MS = 60_000;
const HOUR_SECONDS = 3600;
/** Longer than the receiver's status interval, and far below what it takes for a dead connection. */
const QUIET_MS = 1200;
/** Programs that we read the time from are never so late. */
const CLOCK_SECONDS = 60;

/** A fault of the network that lasts. */
function network(name: string, begin: (scene: FaultScene) => void): FaultFamily {
  return {
    name,
    async inject(scene, lastsMs) {
      begin(scene);
      await sleep(lastsMs);
      await scene.prove();
      scene.proxy.heal();
    },
  };
}

/** A fault of the network between a namespace and this machine; the last step's result stays until the fault's end. */
function namespaceFault(
  name: string,
  steps: readonly ((network: NetworkNamespace) => void)[],
): FaultFamily {
  return {
    name,
    needs: "network namespace",
    async inject(scene, lastsMs) {
      const network = scene.namespace!;
      try {
        for (const step of steps) {
          step(network);
          await sleep(lastsMs / steps.length);
          await scene.prove();
        }
      } finally {
        network.heal();
      }
    },
  };
}

/** A clock that is an hour ahead, an hour behind, and runs backwards, in any order, and is right again at the end. */
function wrongClock(
  clockOf: "receiver" | "server",
  looks: {
    /** Waits until it is seen that this one's clock is so far off. */
    readonly offBy: (scene: FaultScene, seconds: number) => Promise<void>;
    /** What must hold at the end of each of the three. */
    readonly holds?: (scene: FaultScene) => void;
    /** Once, at any of the three. */
    readonly restart: (scene: FaultScene) => Promise<void>;
  },
): FaultFamily {
  return {
    name: `${clockOf}: wrong clock`,
    needs: "wrong clock",
    clockOf,
    async inject(scene, lastsMs) {
      const clock = scene.clock!;
      const { random } = scene;
      const ways = ["ahead", "behind", "backwards"].map((way) => ({ way, key: random.next() }))
        .sort((a, b) => a.key - b.key).map(({ way }) => way);
      const restartsAt = random.pick([...ways, undefined]);
      for (const way of ways) {
        if (way === "backwards") {
          await clock.runBackwards(lastsMs / ways.length);
        } else {
          const seconds = way === "ahead" ? HOUR_SECONDS : -HOUR_SECONDS;
          // While nothing comes in: the receiver looks how long that has been so.
          scene.proxy.silence();
          clock.turn(seconds);
          await sleep(QUIET_MS);
          scene.proxy.heal();
          await looks.offBy(scene, seconds);
          await sleep(lastsMs / ways.length);
        }
        looks.holds?.(scene);
        if (way === restartsAt) await looks.restart(scene);
        await scene.prove();
      }
      clock.turn(0);
    },
  };
}

/** A fault of the network that happens once; the clients' work brings it about. */
function harm(
  name: string,
  begin: (scene: FaultScene) => Promise<void>,
  more: Partial<FaultFamily> = {},
): FaultFamily {
  return {
    name,
    ...more,
    async inject(scene) {
      const late = new AbortController();
      const timeout = sleep(HARM_MS, "late", { signal: late.signal }).catch(() => "in time");
      const result = await Promise.race([begin(scene), timeout]);
      late.abort();
      assert.notEqual(result, "late", "nothing passed the proxy");
      await scene.prove();
      scene.proxy.heal();
    },
  };
}

/** The server ends in some way, and is started again. */
function serverEnd(name: string, end: (scene: FaultScene) => Promise<void>): FaultFamily {
  return {
    name,
    async inject(scene, lastsMs) {
      await end(scene);
      await scene.prove();
      await sleep(lastsMs / 2);
      await scene.primary.start();
    },
  };
}

const fullDisk: FaultFamily["inject"] = async (scene, lastsMs) => {
  const disk = scene.disk!;
  disk.fillUpTo(scene.random.integer(0, 3) * 1024 * 1024);
  try {
    await until(
      "the receiver's word of the full disk",
      () =>
        ["archive disk full", "archive disk low", "disconnected"].some((event) =>
          scene.receiver.linesOf(event).length > 0
        ),
    );
    await sleep(lastsMs);
    await scene.prove();
  } finally {
    disk.makeRoom();
  }
};

/** All of them, in the order in which they are told. */
export const FAULT_FAMILIES: readonly FaultFamily[] = [
  network("connection cut and refused", ({ proxy }) => proxy.cut()),
  network("connection half-open", ({ proxy }) => proxy.silence()),
  namespaceFault("network namespace: link down", [(network) => network.takeLink()]),
  namespaceFault("network namespace: packets dropped", [
    (network) => network.dropPackets("INPUT"),
    (network) => network.dropPackets("OUTPUT"),
  ]),
  namespaceFault("network namespace: address gone", [(network) => network.takeAddress()]),
  network("network delayed", ({ proxy, random }) => proxy.delay(random.spread(20, 500))),
  network("network slow", ({ proxy, random }) => proxy.slow(random.spread(20_000, 500_000))),
  harm(
    "closed in the middle of a message",
    ({ proxy, random }) => proxy.truncateAfter(random.integer(0, 100_000)),
  ),
  harm("bit flipped, TLS", ({ proxy, random }) => {
    const from = random.pick(["server", "client"] as const);
    return proxy.flipAfter(random.integer(0, from === "server" ? 100_000 : 1000), from);
  }, { needs: "TLS" }),
  {
    // No check of TCP's or TLS's found it, and the protocol has none: what comes is acknowledged as it came.
    ...harm(
      "bit flipped, plain text",
      ({ proxy, random }) => proxy.flipAfter(random.integer(0, 100_000), "server"),
    ),
    neverSynchronous: true,
    outcome: damageIsTold,
  },
  {
    name: "archive disk full",
    needs: "small disk",
    receiverOptions: ["--min-free=0"],
    inject: fullDisk,
  },
  { name: "archive disk below --min-free", needs: "small disk", inject: fullDisk },
  {
    name: "archive disk stalls",
    needs: "small disk",
    async inject(scene, lastsMs) {
      scene.disk!.freeze();
      try {
        await sleep(lastsMs);
        await scene.prove();
      } finally {
        scene.disk!.thaw();
      }
    },
  },
  {
    name: "archive directory read-only",
    needs: "small disk",
    async inject(scene, lastsMs) {
      const { directory } = scene.archive;
      for (const path of [directory, join(directory, "inprogress")]) scene.disk!.closeDirectory(path);
      try {
        // What is under way may go on in files that are open; the next segment can't.
        for (let times = 0; times < 3; times++) {
          await scene.primary.sql("SELECT pg_switch_wal()");
          await sleep(lastsMs / 3);
        }
        await scene.prove();
      } finally {
        scene.disk!.openDirectories();
      }
    },
  },
  {
    name: "receiver: SIGSTOP",
    async inject(scene, lastsMs) {
      scene.receiver.signal("SIGSTOP");
      await sleep(lastsMs);
      await scene.prove();
      scene.receiver.signal("SIGCONT");
    },
  },
  {
    name: "receiver: SIGKILL",
    async inject(scene, lastsMs) {
      await scene.receiver.kill();
      await scene.prove();
      await sleep(lastsMs / 2);
      scene.launch();
    },
  },
  wrongClock("receiver", {
    async offBy({ primary, receiver }, seconds) {
      // What it logs has the time.
      await primary.sql("SELECT pg_switch_wal()");
      await until("a line by the wrong clock", () => {
        const told = Date.parse(String(receiver.lines.at(-1)?.["time"]));
        return Math.abs(told / 1000 - seconds - Date.now() / 1000) < CLOCK_SECONDS;
      });
    },
    // All that it waits for, it waits for by another clock.
    holds: ({ receiver }) => assert.deepEqual(receiver.linesOf("disconnected"), []),
    async restart(scene) {
      await scene.receiver.kill();
      scene.launch();
      await scene.receiver.next("streaming");
    },
  }),
  {
    name: "server: SIGSTOP",
    async inject(scene, lastsMs) {
      scene.primary.suspend();
      try {
        await sleep(lastsMs);
        await scene.prove();
      } finally {
        scene.primary.resume();
      }
    },
  },
  serverEnd("server: SIGKILL", ({ primary }) => primary.kill()),
  serverEnd("server: immediate shutdown", ({ primary }) => primary.stop("immediate")),
  serverEnd("server: orderly restart", async ({ primary }) => {
    const askedMs = performance.now();
    await primary.stop("fast");
    const tookMs = performance.now() - askedMs;
    assert.ok(tookMs < SHUTDOWN_MS, `the shutdown took ${Math.round(tookMs)} ms`);
  }),
  wrongClock("server", {
    async offBy({ primary }, seconds) {
      const told = Number(await primary.value("SELECT extract(epoch FROM clock_timestamp())"));
      assert.ok(Math.abs(told - seconds - Date.now() / 1000) < CLOCK_SECONDS, `the server says ${told}`);
    },
    async restart({ primary, clock }) {
      await primary.kill();
      await primary.start();
      clock!.wornBy(primary.pid);
    },
  }),
  { name: "server lost, standby promoted", inject: (scene, lastsMs) => scene.failOver(lastsMs) },
  {
    // With commits that wait for WAL that no longer comes, nobody could go on.
    name: "slot dropped, WAL recycled",
    neverSynchronous: true,
    losesWal: true,
    inject: loseSlot,
    outcome: gapIsTold,
  },
];

/** Either the connection broke, and all came again; or the archive has what came, and `verify` finds it. */
async function damageIsTold(scene: FaultScene): Promise<string> {
  const { archive, primary, receiver, timeline } = scene;
  const endLsn = await primary.value("SELECT pg_current_wal_flush_lsn()");
  await until("the receiver having all, or its end", async () => {
    if (!receiver.alive) return true;
    const rows = await primary.sql(
      `SELECT FROM pg_stat_replication WHERE application_name = 'walvault' AND flush_lsn >= '${endLsn}'`,
    );
    return rows.length > 0;
  }, OUTCOME_MS);
  await scene.rest();
  if (receiver.alive) await receiver.stop();
  else assert.match(receiver.stderr, /"hint"|Cannot /);
  let difference: string;
  try {
    compareWithServer(archive, primary, { timeline });
    // Of a segment that still grows it compares what is valid.
    assertHolds(archive, primary, { timeline, flushLsn: parseLsn(endLsn) });
    return "all came again";
  } catch (error) {
    difference = (error as Error).message;
  }
  const [program = "", ...words] = programWords();
  const verified = spawnSync(program, [...words, "verify", `--archive=${archive.directory}`], {
    encoding: "utf8",
  });
  assert.equal(verified.status, 1, `${difference}, and verify says\n${verified.stdout}${verified.stderr}`);
  return "verify finds the damage";
}

async function loseSlot(scene: FaultScene): Promise<void> {
  const { primary, proxy } = scene;
  proxy.cut();
  await scene.rest();
  await scene.prove();
  await until("the slots being free", async () => {
    await primary.sql(
      "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
    );
    return await primary.value("SELECT count(*) FROM pg_replication_slots") === "0";
  });
  const [needed] = primary.walFiles().filter((name) => name > (scene.archive.complete().at(-1)?.name ?? ""));
  await primary.configure({ wal_keep_size: "0", max_wal_size: "2MB", min_wal_size: "2MB" });
  await until(`${needed} being recycled`, async () => {
    await scene.write(2);
    await primary.sql("SELECT pg_switch_wal(); CHECKPOINT");
    return !primary.walFiles().includes(needed!);
  });
}

/** It ends and says why, or notes the gap and goes on behind it; what was there before stays as it was. */
async function gapIsTold(scene: FaultScene): Promise<string> {
  const { archive, proxy, receiver } = scene;
  const before = new Set(archive.complete().map((file) => file.name));
  const contents = fingerprint(archive.directory);
  proxy.heal();
  await until(
    "the receiver's word of the gap",
    () => !receiver.alive || receiver.lines.some((line) => /\bgaps?\b/.test(line.event)),
    OUTCOME_MS,
  );
  if (receiver.alive) {
    await scene.write(2);
    await until("WAL from behind the gap", () => archive.complete().some((file) => !before.has(file.name)));
    assert.equal(await receiver.stop(), 0);
  } else {
    assert.equal(await receiver.ended(), 3);
    assert.match(receiver.stderr, /no longer has that WAL/);
  }
  const after = fingerprint(archive.directory);
  for (const name of before) assert.equal(after.get(name), contents.get(name), `${name} has changed`);
  return receiver.stderr.includes("no longer has that WAL") ? "it ended with the reason" : "a gap is noted";
}
