/** A network of a test's own, which can lose its link, its packets and its address; needs root. */
import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { mustRun, runCommand } from "./system_command.ts";

/** Which way packets are dropped, as seen from inside. */
export type PacketDirection = "INPUT" | "OUTPUT";

/** What passes is answered at once, but for a machine that is busy; what does not is waited for to the end. */
const ANSWER_SECONDS = 20;
const SILENCE_SECONDS = 1;
let made = 0;

/**
 * A network namespace, and a pair of veth devices that leads into it from this machine: what runs inside sees nothing
 * but `serverAddress`. The loss of link or address is the outer end's, that of packets the inner one's, so that no rule
 * of the machine's own firewall is touched. Whatever becomes of the test, namespace and devices go with it.
 */
export class NetworkNamespace {
  /** On the outer end: where a server must listen. */
  readonly serverAddress: string;
  readonly #name: string;
  readonly #device: string;
  readonly #watchdog: ChildProcess;

  constructor() {
    const count = made++;
    this.#name = `walvault-${process.pid}-${count}`;
    // At most 15 bytes.
    this.#device = `wv${process.pid}-${count % 100}`;
    const inner = `${this.#device}i`;
    // Nobody's network: 198.18.0.0/15 is set aside for tests of networks (RFC 2544). Four addresses for each of ours.
    const number = (process.pid * 4 + count) % 2 ** 15;
    const network = `198.${18 + (number >> 14)}.${number >> 6 & 255}`;
    this.serverAddress = `${network}.${(number << 2 & 255) + 1}`;
    this.#watchdog = startWatchdog(this.#device, this.#name);
    try {
      mustRun("ip", ["netns", "add", this.#name]);
      mustRun("ip", [
        "link",
        "add",
        this.#device,
        "type",
        "veth",
        "peer",
        "name",
        inner,
        "netns",
        this.#name,
      ]);
      mustRun("ip", ["-n", this.#name, "link", "set", "lo", "up"]);
      mustRun("ip", [
        "-n",
        this.#name,
        "addr",
        "add",
        `${network}.${(number << 2 & 255) + 2}/30`,
        "dev",
        inner,
      ]);
      mustRun("ip", ["-n", this.#name, "link", "set", inner, "up"]);
      this.heal();
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** The words that start a program inside; it keeps the process's number. */
  get enter(): readonly string[] {
    return ["nsenter", `--net=/run/netns/${this.#name}`, "--"];
  }

  #mustRunInside(command: string, words: readonly string[]): void {
    const [first = "", ...more] = this.enter;
    mustRun(first, [...more, command, ...words]);
  }

  /** As a pulled cable: addresses stay, and no packet passes. */
  takeLink(): void {
    mustRun("ip", ["link", "set", this.#device, "down"]);
  }

  /** Without a word to anybody. */
  dropPackets(direction: PacketDirection): void {
    this.#mustRunInside("iptables", ["--wait", "--append", direction, "--jump", "DROP"]);
  }

  /** As when it moves to another machine: no packet that is meant for it is answered. */
  takeAddress(): void {
    mustRun("ip", ["addr", "del", `${this.serverAddress}/30`, "dev", this.#device]);
  }

  /** Everything is there, and passes. */
  heal(): void {
    mustRun("ip", ["addr", "replace", `${this.serverAddress}/30`, "dev", this.#device]);
    mustRun("ip", ["link", "set", this.#device, "up"]);
    this.#mustRunInside("iptables", ["--wait", "--flush"]);
  }

  /** Whether packets pass, and are answered. */
  passes(): boolean {
    return this.#isAnswered(ANSWER_SECONDS);
  }

  /** Whether no answer comes for a while. */
  isSilent(): boolean {
    return !this.#isAnswered(SILENCE_SECONDS);
  }

  /** A refused connection is an answer. */
  #isAnswered(seconds: number): boolean {
    const [command = "", ...words] = this.enter;
    const look = `timeout ${seconds} bash -c 'echo > /dev/tcp/${this.serverAddress}/1' 2>&1`;
    return runCommand(command, [...words, "sh", "-c", look]).told.includes("refused");
  }

  [Symbol.dispose](): void {
    // The devices first: a namespace lasts as long as a process in it, and keeps what it holds.
    runCommand("ip", ["link", "del", this.#device]);
    runCommand("ip", ["netns", "del", this.#name]);
    this.#watchdog.stdin?.end("done\n");
  }
}

/** A shell that outlives us if we are killed, sees the end of the pipe that only we hold, and then ends what runs inside and cleans up. */
function startWatchdog(device: string, name: string): ChildProcess {
  const script = `
    trap '' INT TERM HUP
    read -r answer && exit 0
    for pid in $(ip netns pids "$2"); do kill -KILL "$pid"; done
    ip link del "$1"
    ip netns del "$2"`;
  const watchdog = spawn("sh", ["-c", script, "sh", device, name], {
    cwd: "/",
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  return watchdog;
}

/** Why there can be no namespace here; `undefined` when there can. */
export function whyNoNamespace(): string | undefined {
  if (process.platform !== "linux") return "needs Linux";
  if (process.getuid?.() !== 0) return "needs root";
  try {
    using namespace = new NetworkNamespace();
    if (!namespace.passes()) return "no packet passes between a namespace and this machine";
    namespace.dropPackets("INPUT");
    return namespace.isSilent() ? undefined : "packets are not dropped";
  } catch (error) {
    return (error as Error).message;
  }
}
