import type { Answer } from "../../lib/protocol/answers.ts";
import type { CopyBothDecoder } from "../../lib/protocol/copy_both.ts";
import { ConnectionError, ServerError } from "../../lib/protocol/errors.ts";
import type { SlotPosition, SystemIdentity, WalStreamHandler } from "../../lib/protocol/replication.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import type { Link } from "../../lib/session/link.ts";
import type { CopyListener } from "../../lib/session/socket_tap.ts";
import { streamWal } from "../../lib/session/stream.ts";
import { ancestorHistory, switchPointOf } from "../../lib/wal/history.ts";
import { formatLsn, type Lsn, lsn } from "../../lib/wal/lsn.ts";
import type { TimelineId } from "../../lib/wal/timeline.ts";
import { SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import type { Random } from "./random.ts";
import type { Scheduler } from "./sim_clock.ts";
import { type Branch, branchBytes, type Era, historyBytes, SEGMENT_BYTES, type World } from "./sim_wal.ts";

/** Servers send at most this much in one message. */
const MAX_SEND_BYTES = 128 * 1024;
/** What the network and the sockets hold before the server waits. */
const WINDOW_BYTES = 512 * 1024;
/** After this long without a word from its receiver a server asks, and after twice that it hangs up. */
const SERVER_PATIENCE_MS = 30_000;

/** What the one who checks the promises hears. */
export interface ServerWatcher {
  /** A status leaves the receiver: from now on the server may throw that WAL away, and commits return. */
  onStatus(stream: StreamFacts, status: { writeLsn: bigint; flushLsn: bigint; applyLsn: bigint }): void;
  onStreamStart(stream: StreamFacts): void;
  /** The server gave up bytes that it had sent: from `lsn` on they count no more. */
  onRewritten(branch: Branch, lsn: bigint): void;
  /** A commit that waited returns to its client: it must not get lost any more. */
  onReleased(branch: Branch, lsn: bigint): void;
  /** The receiver asks for WAL that was removed. */
  onWalGone(): void;
  violation(text: string): void;
  trace(text: string): void;
}

/** What is streamed. */
export interface StreamFacts {
  readonly branch: Branch;
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly slot: string | undefined;
  /** Up to here WAL was handed to the receiver. */
  deliveredLsn: bigint;
  /** Whether commits wait for a receiver, and have done so since this one asked last. */
  isWaitedFor(): boolean;
}

/** How a server and its network behave; drawn by chance. */
export interface ServerHabits {
  readonly slot: string | undefined;
  readonly growthMs: number;
  readonly growthStops: number;
  readonly networkMs: number;
  /** Pieces in which the network hands over what was sent. */
  readonly pieceBytes: number;
  readonly keepaliveMs: number;
  /** What the receiver promised: a word at least this often. */
  readonly statusIntervalMs: number;
}

/** A host as its connections need it. */
export interface SimHost {
  readonly address: string;
  readonly habits: ServerHabits;
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly watcher: ServerWatcher;
  readonly branch: Branch;
  readonly flushLsn: bigint;
  readonly removedBelow: bigint;
  readonly slot: SlotPosition | undefined;
  readonly standbyNames: string;
  readonly namesChanges: number;
  createSlot(): void;
  refusal(start: StreamStart, connection: Connection): ServerError | undefined;
  sendLimit(timeline: TimelineId): bigint;
  onStatus(flushLsn: bigint): void;
  forget(connection: Connection): void;
}

/** What a receiver asks for. */
export interface StreamStart {
  readonly timeline: TimelineId;
  readonly startLsn: bigint;
  readonly slot: string | undefined;
}

/** A server and those that come after it: `receiver/`'s side of the simulation. */
export class SimServer implements SimHost {
  readonly address = "server:5432";
  /** Called when a new server, or the same one anew, goes on. */
  onNextEra: () => void = () => {};
  #era = 0;
  #flushLsn: bigint;
  #removedBelow: bigint;
  #slot: { restartLsn: bigint | undefined; holder: Connection | undefined } | undefined;
  #connections = new Set<Connection>();
  #standbyNames = "";
  #namesChanges = 0;
  /** Where commits end that wait for the receiver. */
  #waiting: bigint[] = [];
  #up = true;
  #shuttingDown = false;
  #isolated = false;
  #restAtLsn: bigint | undefined;
  /** What the newest status said was flushed. */
  reportedFlushLsn = 0n;
  /** Its life is the same whatever receivers do: chance of its own. */
  readonly #lifeRandom: Random;

  constructor(
    readonly world: World,
    readonly habits: ServerHabits,
    readonly scheduler: Scheduler,
    readonly random: Random,
    readonly watcher: ServerWatcher,
  ) {
    this.#lifeRandom = random.fork();
    const { branch, endLsn } = this.era;
    const stops = branch.stops.filter((stop) => stop <= endLsn);
    this.#flushLsn = stops[Math.floor(random.next() ** 2 * stops.length)]!;
    this.#removedBelow = world.firstLsn;
    this.#grow();
  }

  get era(): Era {
    return this.world.eras[this.#era]!;
  }

  get branch(): Branch {
    return this.era.branch;
  }

  get flushLsn(): bigint {
    return this.#flushLsn;
  }

  /** All WAL there will ever be is there. */
  get finished(): boolean {
    return this.#era === this.world.eras.length - 1 && this.#flushLsn === this.era.endLsn && this.#up;
  }

  /** Opens a connection; the process that asks is the client. */
  connect(process: { readonly alive: boolean }): Promise<WalSource & { isOpen(): boolean }> {
    return new Promise((resolve, reject) => {
      this.scheduler.after(this.habits.networkMs * this.random.next(), () => {
        if (!process.alive) return;
        if (!this.#up || this.#shuttingDown || this.#isolated) {
          reject(
            this.random.chance(0.5)
              ? new ConnectionError("refused", "nobody listens")
              : serverError("57P03", "the database system is starting up"),
          );
          return;
        }
        const connection = new Connection(this, process);
        this.#connections.add(connection);
        resolve(connection);
      });
    });
  }

  /** Cuts all connections. */
  cut(): void {
    for (const connection of [...this.#connections]) connection.cut("the server closed the connection");
  }

  /** Nobody comes through, and all know it, until they may again. */
  isolate(isolated: boolean): void {
    this.#isolated = isolated;
    if (isolated) this.cut();
  }

  /** It has little WAL, and writes none until it is told to. */
  beginEarly(): void {
    const { branch: { stops }, endLsn } = this.era;
    const early = stops[Math.floor(this.#lifeRandom.next() ** 2 * stops.length / 4)]!;
    if (early < this.#flushLsn && early <= endLsn) this.#flushLsn = early;
    this.#restAtLsn = this.#flushLsn;
  }

  /**
   * Writes as far as so many bytes of its next segment, and then nothing until it may go on.
   *
   * @returns where it rests.
   */
  restInNextSegment(bytes: number): bigint {
    const segment = BigInt(SEGMENT_BYTES);
    const wanted = (this.#flushLsn / segment + 1n) * segment + BigInt(bytes);
    this.#restAtLsn = wanted < this.era.endLsn ? wanted : this.era.endLsn;
    return this.#restAtLsn;
  }

  goOn(): void {
    this.#restAtLsn = undefined;
  }

  /** From now on nothing comes through, and nobody is told. */
  silence(): void {
    for (const connection of this.#connections) connection.silent = true;
  }

  /** The client's process has ended: its kernel says so, unless the whole machine went. */
  loseClient(process: { readonly alive: boolean }, how: "told" | "untold"): void {
    for (const connection of [...this.#connections]) {
      if (connection.process !== process) continue;
      if (how === "untold") connection.silent = true;
      connection.loseClient();
    }
  }

  get standbyNames(): string {
    return this.#standbyNames;
  }

  /** How often the setting was changed. */
  get namesChanges(): number {
    return this.#namesChanges;
  }

  /** Below it the server has no WAL. */
  get removedBelow(): bigint {
    return this.#removedBelow;
  }

  /** `synchronous_standby_names`: while it is empty no commit waits. */
  setStandbyNames(names: string): void {
    this.watcher.trace(`server: synchronous_standby_names = '${names}'`);
    this.#standbyNames = names;
    this.#namesChanges++;
    if (names === "") this.#waiting = [];
  }

  /**
   * Removes WAL that the receiver has not got, slot or not; nothing when there is none in whole segments.
   *
   * @returns whether it did.
   */
  loseWal(): boolean {
    const { first, last } = this.#removable();
    const segment = BigInt(SEGMENT_BYTES);
    if (first > last) return false;
    this.#removedBelow = (first + BigInt(Math.floor(this.random.next() * Number(last - first + 1n)))) *
      segment;
    this.watcher.trace(`server: WAL below ${formatLsn(lsn(this.#removedBelow))} is gone`);
    const slot = this.#slot;
    if (slot !== undefined && (slot.restartLsn ?? 0n) < this.#removedBelow) {
      slot.holder?.cut("terminating process to release replication slot");
      // Nobody drops one that is just made.
      if (this.#connections.size === 0 && this.random.chance(0.5)) this.#slot = undefined;
      else slot.restartLsn = undefined;
    }
    return true;
  }

  /** Whether there is WAL that the receiver has not got, in whole segments. */
  get canLoseWal(): boolean {
    const { first, last } = this.#removable();
    return first <= last;
  }

  #removable(): { readonly first: bigint; readonly last: bigint } {
    const segment = BigInt(SEGMENT_BYTES);
    // A later server has none of what its predecessors removed, and must have something at all.
    const ends = this.world.eras.slice(this.#era).flatMap(({ branch: { history } }) =>
      history.entries.map(({ endLsn }) => endLsn as bigint).filter((end) => end > this.world.firstLsn)
    );
    const last = [...ends, this.#flushLsn].reduce((least, end) => end < least ? end : least) / segment;
    const first = (this.reportedFlushLsn > this.#removedBelow ? this.reportedFlushLsn : this.#removedBelow) /
        segment + 1n;
    return { first, last };
  }

  get anySilent(): boolean {
    return [...this.#connections].some((connection) => connection.silent);
  }

  forget(connection: Connection): void {
    this.#connections.delete(connection);
    if (this.#slot?.holder === connection) this.#slot.holder = undefined;
  }

  get slot(): SlotPosition | undefined {
    if (this.#slot === undefined) return undefined;
    const { restartLsn } = this.#slot;
    return {
      kind: "physical",
      restartLsn: restartLsn === undefined ? undefined : lsn(restartLsn),
      restartTimeline: this.branch.history.timeline,
    };
  }

  createSlot(): void {
    if (this.#slot !== undefined) throw serverError("42710", "replication slot exists already");
    // RESERVE_WAL reserves from the last checkpoint's start: somewhere before.
    const span = this.#flushLsn - this.world.firstLsn;
    const back = BigInt(Math.floor(Number(span) * this.random.next() * 0.4));
    const restartLsn = this.#flushLsn - back > this.#removedBelow
      ? this.#flushLsn - back
      : this.#removedBelow;
    this.#slot = { restartLsn, holder: undefined };
  }

  /** Why the server refuses to stream; `undefined` when it does not. */
  refusal(start: StreamStart, connection: Connection): ServerError | undefined {
    const refusal = refusalOf(this, start);
    if (refusal?.sqlState === "58P01") this.watcher.onWalGone();
    if (refusal !== undefined) return refusal;
    const { slot } = start;
    if (slot !== undefined) {
      if (this.#slot === undefined) return serverError("42704", "replication slot does not exist");
      if (this.#slot.holder !== undefined && this.#slot.holder !== connection) {
        return serverError("55006", "replication slot is active");
      }
      this.#slot.holder = connection;
    }
    return undefined;
  }

  /** The end of what may be sent on a timeline now. */
  sendLimit(timeline: TimelineId): bigint {
    return switchPointOf(this.branch.history, timeline) ?? this.#flushLsn;
  }

  onStatus(flushLsn: bigint): void {
    // It claims nothing.
    if (flushLsn === 0n) return;
    this.reportedFlushLsn = flushLsn;
    // A standby that tells no position counts for nothing.
    if (flushLsn === 0n) return;
    const released = this.#waiting.filter((commitLsn) => commitLsn <= flushLsn);
    this.#waiting = this.#waiting.filter((commitLsn) => commitLsn > flushLsn);
    for (const commitLsn of released) this.watcher.onReleased(this.branch, commitLsn);
    const slot = this.#slot;
    if (this.habits.slot === undefined || slot === undefined) return;
    slot.restartLsn = flushLsn;
    // Recycling: everything before the slot's segment may go.
    const floor = flushLsn - flushLsn % BigInt(SEGMENT_BYTES);
    if (floor > this.#removedBelow && this.random.chance(0.5)) this.#removedBelow = floor;
    if (this.#shuttingDown) this.#tryToShutDown();
  }

  #grow(): void {
    const random = this.#lifeRandom;
    this.scheduler.after(this.habits.growthMs * 2 * random.next(), () => {
      if (this.#restAtLsn !== undefined && this.#flushLsn >= this.#restAtLsn) return this.#grow();
      const { branch, endLsn } = this.era;
      const { stops } = branch;
      const next = indexAfter(stops, this.#flushLsn) + random.integer(1, this.habits.growthStops) - 1;
      const stop = stops[Math.min(next, stops.length - 1)]!;
      this.#flushLsn = stop < endLsn ? stop : endLsn;
      if (this.#standbyNames !== "") this.#waiting.push(this.#flushLsn);
      for (const connection of this.#connections) connection.wake();
      if (this.#flushLsn < endLsn) this.#grow();
      else this.scheduler.after(random.spread(1, 3000), () => this.#endEra());
    });
  }

  #endEra(): void {
    const { era, watcher } = this;
    if (era.ending === "none") return;
    watcher.trace(`server: era ${era.branch.name} ends: ${era.ending} at ${formatLsn(lsn(this.#flushLsn))}`);
    switch (era.ending) {
      case "restarted":
        this.#shuttingDown = true;
        this.#shutdownSinceMs = this.scheduler.nowMs;
        for (const connection of this.#connections) connection.wake();
        this.#tryToShutDown();
        return;
      case "promoted":
        this.#nextEra();
        for (const connection of this.#connections) connection.wake();
        return;
      case "failed-over":
      case "crashed":
      case "rewrote":
        this.cut();
        this.#up = false;
        this.scheduler.after(this.#lifeRandom.spread(1, 5000), () => {
          this.#up = true;
          if (era.ending === "failed-over" && this.#lifeRandom.chance(0.7)) this.#slot = undefined;
          this.#nextEra();
        });
        return;
    }
  }

  #shutdownSinceMs = 0;
  #looksLater = false;

  /** A server waits with its shutdown until all receivers have all. */
  #tryToShutDown(): void {
    const streaming = [...this.#connections].filter((connection) => connection.isStreaming);
    if (streaming.every((connection) => connection.silent || connection.hasAll(this.#flushLsn))) {
      if (!this.#shuttingDown) return;
      this.#shuttingDown = false;
      this.#up = false;
      for (const connection of [...this.#connections]) {
        if (connection.isStreaming) connection.shutDown();
        else connection.cut("terminating connection due to administrator command");
      }
      this.scheduler.after(this.random.spread(1, 5000), () => {
        this.#up = true;
        this.#nextEra();
      });
      return;
    }
    if (this.scheduler.nowMs - this.#shutdownSinceMs > 100_000) {
      this.watcher.violation("P10: the server's shutdown is held up for 100 s");
      return;
    }
    // One look at a time: each status looks too.
    if (this.#looksLater) return;
    this.#looksLater = true;
    this.scheduler.after(100, () => {
      this.#looksLater = false;
      if (this.#shuttingDown) this.#tryToShutDown();
    });
  }

  #nextEra(): void {
    const before = this.era;
    this.#era++;
    this.onNextEra();
    // The sessions are gone.
    this.#waiting = [];
    const { branch } = this.era;
    if (before.ending === "rewrote") {
      this.watcher.onRewritten(before.branch, commonEnd(before.branch, branch));
    }
    // The new one may lag behind what the old one had, not behind the switch.
    const fork = branch.history.entries.at(-1)?.endLsn;
    // Whoever is promoted has at least the segment in which it was, whatever its primary has recycled.
    const own = fork === undefined ? this.#removedBelow : fork - fork % BigInt(SEGMENT_BYTES);
    if (before.ending === "failed-over" && own < this.#removedBelow) this.#removedBelow = own;
    const least = before.ending === "promoted" || before.ending === "failed-over" ? fork! : this.#flushLsn;
    const first = branch.stops.find((stop) => stop > least) ?? this.era.endLsn;
    if (before.ending === "rewrote" || first > this.#flushLsn || before.ending === "failed-over") {
      this.#flushLsn = first;
    }
    if (before.ending === "promoted") this.#flushLsn = first;
    this.#grow();
  }
}

/** Why a host has not what is asked for; `undefined` when it has. */
export function refusalOf(
  host: Pick<SimHost, "branch" | "flushLsn" | "removedBelow">,
  { timeline, startLsn }: StreamStart,
): ServerError | undefined {
  const { history } = host.branch;
  const switchLsn = switchPointOf(history, timeline);
  if (timeline !== history.timeline && (switchLsn === undefined || startLsn > switchLsn)) {
    return serverError(
      "XX000",
      `requested starting point ${
        formatLsn(lsn(startLsn))
      } on timeline ${timeline} is not in this server's history`,
    );
  }
  if (startLsn > (switchLsn ?? host.flushLsn)) {
    return serverError(
      "XX000",
      "requested starting point is ahead of the WAL flush position of this server",
    );
  }
  if (startLsn < host.removedBelow) {
    return serverError("58P01", "requested WAL segment has already been removed");
  }
  return undefined;
}

/** Where in ascending numbers the first one above `value` stands. */
function indexAfter(values: readonly bigint[], value: bigint): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The end of what two branches have in common. */
export function commonEnd(a: Branch, b: Branch): bigint {
  const known = commonEnds.get(a)?.get(b);
  if (known !== undefined) return known;
  const end = findCommonEnd(a, b);
  const ends = commonEnds.get(a) ?? new Map<Branch, bigint>();
  commonEnds.set(a, ends.set(b, end));
  return end;
}

const commonEnds = new WeakMap<Branch, Map<Branch, bigint>>();

function findCommonEnd(a: Branch, b: Branch): bigint {
  const start = a.firstSegment * BigInt(SEGMENT_BYTES);
  const until = a.endLsn < b.endLsn ? a.endLsn : b.endLsn;
  for (let index = 0; index < a.segments.length; index++) {
    const [x, y] = [a.segments[index]!, b.segments[index]];
    if (x === y) continue;
    const begin = start + BigInt(index) * BigInt(SEGMENT_BYTES);
    if (y === undefined) return begin < until ? begin : until;
    let at = 0;
    while (at < SEGMENT_BYTES && x[at] === y[at]) at++;
    if (at < SEGMENT_BYTES) return begin + BigInt(at) < until ? begin + BigInt(at) : until;
  }
  return until;
}

function serverError(sqlState: string, message: string): ServerError {
  return new ServerError("Cannot do it", {
    severity: "ERROR",
    sqlState,
    message,
    detail: undefined,
    hint: undefined,
    fields: new Map(),
  });
}

interface RunningCopy {
  readonly facts: StreamFacts;
  readonly listener: CopyListener;
  readonly settle: { resolve(answer: Answer): void; reject(error: Error): void };
  sentLsn: bigint;
  /** Frames on their way. */
  readonly onTheWay: Uint8Array[];
  bytesOnTheWay: number;
  writeLsn: bigint;
  flushLsn: bigint;
  statusAtMs: number;
  statuses: number;
  /** Bytes put on the wire and taken off it, and where each keepalive ends that asks for an answer. */
  putBytes: number;
  takenBytes: number;
  readonly questions: number[];
  stopAsked: boolean;
  ending: "no" | "asked" | "timeline";
  delivering: boolean;
}

/** One connection, seen from the client. */
export class Connection implements WalSource {
  readonly serverVersion = 150008;
  silent = false;
  #closed = false;
  /** `start`: the stream holds back what comes until its caller has it; that moment passes by the real clock. */
  #paused: "no" | "start" | "yes" = "no";
  #starting = false;
  #copy: RunningCopy | undefined;
  #pendingRejects = new Set<(error: Error) => void>();
  /** What `link.ts` gives to `stream.ts`. */
  readonly #link: Link;

  constructor(private readonly server: SimHost, readonly process: { readonly alive: boolean }) {
    this.#link = {
      copy: (_command: unknown, listener: CopyListener) => this.#startCopy(_command as Command, listener),
      copyControl: {
        sendStatus: (frame: Uint8Array) => this.#sendStatus(frame),
        sendCopyDone: () => this.#sendCopyDone(),
        pause: () => void (this.#paused = this.#starting ? "start" : "yes"),
        resume: () => {
          this.#paused = "no";
          this.#deliverSoon();
        },
      },
    } as unknown as Link;
    this.#watch();
  }

  get address(): string {
    return this.server.address;
  }

  isOpen(): boolean {
    return !this.#closed;
  }

  get isStreaming(): boolean {
    return this.#copy !== undefined;
  }

  hasAll(flushLsn: bigint): boolean {
    if (this.#copy === undefined) return true;
    const { flushLsn: told, writeLsn } = this.#copy;
    return (told === 0n ? writeLsn : told) >= flushLsn;
  }

  identifySystem(): Promise<SystemIdentity> {
    return this.#query(() => ({
      systemIdentifier: SYSTEM_IDENTIFIER,
      timeline: this.server.branch.history.timeline,
      flushLsn: lsn(this.server.flushLsn),
    }));
  }

  show(name: string): Promise<string> {
    return this.#query(() => {
      if (name === "wal_segment_size") return `${SEGMENT_BYTES / 1048576}MB`;
      if (name !== "synchronous_standby_names") return "";
      this.#namesSeen = this.server.namesChanges;
      return this.server.standbyNames;
    });
  }

  /** Which of the settings this connection was told. */
  #namesSeen: number | undefined;

  async showAfresh(name: string): Promise<{ readonly systemIdentifier: bigint; readonly value: string }> {
    return { systemIdentifier: SYSTEM_IDENTIFIER, value: await this.show(name) };
  }

  readSlot(): Promise<SlotPosition | undefined> {
    return this.#query(() => this.server.slot);
  }

  createSlot(): Promise<void> {
    return this.#query(() => this.server.createSlot());
  }

  dropSlot(): Promise<void> {
    return Promise.reject(new Error("nobody drops a slot here"));
  }

  timelineHistory(timeline: TimelineId): Promise<Uint8Array | undefined> {
    return this.#query(() => historyBytes(ancestorHistory(this.server.branch.history, timeline)));
  }

  #start:
    | { readonly slot: string | undefined; readonly startLsn: Lsn; readonly timeline: TimelineId }
    | undefined;

  startReplication(
    options: { readonly slot: string | undefined; readonly startLsn: Lsn; readonly timeline: TimelineId },
    handler: WalStreamHandler,
  ) {
    this.#start = options;
    return streamWal(this.#link, options, handler);
  }

  close(): Promise<void> {
    this.#end(new ConnectionError("closed", "we closed the connection"));
    return Promise.resolve();
  }

  cut(problem: string): void {
    if (this.silent) return;
    this.#end(new ConnectionError("closed", problem));
  }

  loseClient(): void {
    this.#end(new ConnectionError("closed", "the client is gone"));
  }

  /** More WAL is there, or the timeline has ended, or the server wants to stop. */
  wake(): void {
    if (this.#copy !== undefined) this.server.scheduler.after(this.#latency(), () => this.#send());
  }

  /** The orderly end of a server: CommandComplete, and then the line is closed. */
  shutDown(): void {
    const copy = this.#copy;
    if (copy === undefined || this.silent) return;
    copy.listener.onShutdown();
    this.server.scheduler.after(this.#latency(), () => this.cut("the server closed the connection"));
  }

  #latency(): number {
    return this.server.habits.networkMs * this.server.random.next();
  }

  #query<T>(answer: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new ConnectionError("closed", "the connection is closed"));
      this.#pendingRejects.add(reject);
      // As the real link: no answer for a minute ends it.
      const cancel = this.server.scheduler.after(60_000, () => {
        if (this.#pendingRejects.has(reject)) this.#end(new ConnectionError("timeout", "no answer in 60 s"));
      });
      this.server.scheduler.after(this.#latency() * 2, () => {
        if (!this.#pendingRejects.has(reject) || this.silent || !this.process.alive) return;
        this.#pendingRejects.delete(reject);
        cancel();
        try {
          resolve(answer());
        } catch (error) {
          reject(error as Error);
        }
      });
    });
  }

  #startCopy<T>(command: { decode(answer: Answer): T }, listener: CopyListener): Promise<T> {
    const start = this.#start!;
    return new Promise<Answer>((resolve, reject) => {
      if (this.#closed) return reject(new ConnectionError("closed", "the connection is closed"));
      this.#pendingRejects.add(reject);
      this.server.scheduler.after(this.#latency() * 2, () => {
        if (!this.#pendingRejects.has(reject) || this.silent || !this.process.alive) return;
        const refusal = this.server.refusal(start, this);
        if (refusal !== undefined) {
          this.#pendingRejects.delete(reject);
          return reject(refusal);
        }
        const { branch } = this.server;
        const end = switchPointOf(branch.history, start.timeline);
        if (end === start.startLsn) {
          this.#pendingRejects.delete(reject);
          return resolve(this.#timelineEnd(start.timeline));
        }
        const namesSeen = this.#namesSeen;
        const isWaitedFor = () => this.server.standbyNames !== "" && this.server.namesChanges === namesSeen;
        const facts = { branch, ...start, deliveredLsn: start.startLsn as bigint, isWaitedFor };
        this.#copy = {
          facts,
          listener,
          settle: { resolve, reject },
          sentLsn: start.startLsn,
          onTheWay: [],
          bytesOnTheWay: 0,
          writeLsn: 0n,
          flushLsn: 0n,
          statusAtMs: this.server.scheduler.nowMs,
          statuses: 0,
          putBytes: 0,
          takenBytes: 0,
          questions: [],
          stopAsked: false,
          ending: "no",
          delivering: false,
        };
        this.server.watcher.onStreamStart(facts);
        this.#starting = true;
        listener.onStart();
        this.#starting = false;
        this.server.scheduler.after(1, () => {
          if (this.#paused !== "start") return;
          this.#paused = "no";
          this.#deliverSoon();
        });
        this.wake();
      });
    }).then((answer) => command.decode(answer));
  }

  #timelineEnd(timeline: TimelineId): Answer {
    const { history } = this.server.branch;
    const index = history.entries.findIndex((entry) => entry.timeline === timeline);
    const next = history.entries[index + 1]?.timeline ?? history.timeline;
    const encode = (text: string) => new TextEncoder().encode(text);
    return {
      columns: ["next_tli", "next_tli_startpos"],
      rows: [[encode(String(next)), encode(formatLsn(history.entries[index]!.endLsn))]],
    };
  }

  /** Puts on the wire what the receiver has not got. */
  #send(): void {
    const copy = this.#copy;
    if (copy === undefined || this.#closed || copy.ending !== "no") return;
    const limit = this.server.sendLimit(copy.facts.timeline);
    if (copy.sentLsn < limit && copy.sentLsn < this.server.removedBelow) {
      this.#copy = undefined;
      this.#pendingRejects.delete(copy.settle.reject);
      copy.settle.reject(serverError("58P01", "requested WAL segment has already been removed"));
      return;
    }
    while (copy.sentLsn < limit && copy.bytesOnTheWay < WINDOW_BYTES) {
      const longest = this.server.random.chance(0.5) ? MAX_SEND_BYTES : this.server.random.integer(1, 70_000);
      const end = copy.sentLsn + BigInt(longest) < limit ? copy.sentLsn + BigInt(longest) : limit;
      const bytes = branchBytes(this.server.branch, copy.sentLsn, end);
      this.#put(copy, encodeXLogData(copy.sentLsn, limit, bytes.length));
      this.#put(copy, bytes);
      copy.sentLsn += BigInt(bytes.length);
    }
    if (this.server.branch.history.timeline !== copy.facts.timeline && copy.sentLsn >= limit) {
      copy.ending = "timeline";
    }
    this.#deliverSoon();
  }

  #put(copy: RunningCopy, frame: Uint8Array): void {
    copy.onTheWay.push(frame);
    copy.bytesOnTheWay += frame.length;
    copy.putBytes += frame.length;
  }

  #deliverSoon(): void {
    const copy = this.#copy;
    if (copy === undefined || copy.delivering) return;
    copy.delivering = true;
    this.server.scheduler.after(this.#latency(), () => {
      copy.delivering = false;
      this.#deliver();
    });
  }

  /** One read of the client's socket: some bytes, wherever the network cut them. */
  #deliver(): void {
    const copy = this.#copy;
    if (copy === undefined || this.#closed || this.silent || this.#paused !== "no" || !this.process.alive) {
      return;
    }
    if (copy.bytesOnTheWay > 0) {
      const { pieceBytes } = this.server.habits;
      const piece = this.#take(copy, this.server.random.integer(1, pieceBytes));
      copy.takenBytes += piece.length;
      const { statuses } = copy;
      try {
        const cursor = { bytes: piece, index: 0 };
        (copy.listener.decoder as CopyBothDecoder).decode(cursor);
        if (cursor.index < piece.length) throw new Error("the decoder did not take all");
        copy.facts.deliveredLsn = copy.listener.decoder.nextLsn;
        copy.listener.onDrained();
      } catch (error) {
        // What the handler throws, or a protocol error, ends the connection.
        this.#end(error as Error);
        return;
      }
      if (this.#copy !== copy) return;
      this.#checkAnswer(copy, statuses);
      this.#send();
    }
    if (copy.bytesOnTheWay > 0) this.#deliverSoon();
    else if (copy.ending !== "no") this.#finishCopy(copy);
  }

  /** Who asks gets an answer at once; before the first status of a stream that one is the answer. */
  #checkAnswer(copy: RunningCopy, statusesBefore: number): void {
    const asked = copy.questions.filter((endByte) => endByte <= copy.takenBytes).length;
    copy.questions.splice(0, asked);
    if (asked > 0 && statusesBefore > 0 && copy.statuses === statusesBefore && !copy.stopAsked) {
      this.server.watcher.violation("P9: the server asked, and got no answer");
    }
  }

  #take(copy: RunningCopy, count: number): Uint8Array {
    const length = Math.min(count, copy.bytesOnTheWay);
    const whole = copy.onTheWay[0]!;
    if (length < whole.length) {
      copy.onTheWay[0] = whole.subarray(length);
      copy.bytesOnTheWay -= length;
      return whole.subarray(0, length);
    }
    const piece = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      const first = copy.onTheWay[0]!;
      const part = first.subarray(0, length - filled);
      piece.set(part, filled);
      filled += part.length;
      if (part.length === first.length) copy.onTheWay.shift();
      else copy.onTheWay[0] = first.subarray(part.length);
    }
    copy.bytesOnTheWay -= length;
    return piece;
  }

  #finishCopy(copy: RunningCopy): void {
    const wasAsked = copy.ending === "asked";
    const { timeline } = copy.facts;
    copy.listener.onServerDone();
    const isOld = this.server.branch.history.timeline !== timeline;
    this.#copy = undefined;
    this.#pendingRejects.delete(copy.settle.reject);
    this.server.scheduler.after(this.#latency(), () => {
      if (this.silent || !this.process.alive) return;
      if (wasAsked && !isOld) copy.settle.resolve({ columns: [], rows: [] });
      else copy.settle.resolve(this.#timelineEnd(timeline));
    });
  }

  #sendStatus(frame: Uint8Array): void {
    const copy = this.#copy;
    if (copy === undefined || this.#closed || copy.ending === "asked") return;
    const view = new DataView(frame.buffer, frame.byteOffset);
    const status = {
      writeLsn: view.getBigUint64(6),
      flushLsn: view.getBigUint64(14),
      applyLsn: view.getBigUint64(22),
    };
    const replyRequested = frame[38] === 1;
    copy.statusAtMs = this.server.scheduler.nowMs;
    copy.statuses++;
    this.server.watcher.onStatus(copy.facts, status);
    this.server.scheduler.after(this.#latency(), () => {
      if (this.silent || this.#copy !== copy) return;
      copy.writeLsn = status.writeLsn;
      copy.flushLsn = status.flushLsn;
      this.server.onStatus(status.flushLsn);
      if (replyRequested) this.#keepalive(copy, false);
    });
  }

  #keepalive(copy: RunningCopy, replyRequested: boolean): void {
    if (copy.ending !== "no") return;
    this.#put(copy, encodeKeepalive(this.server.flushLsn, replyRequested));
    if (replyRequested) copy.questions.push(copy.putBytes);
    this.#deliverSoon();
  }

  #sendCopyDone(): void {
    const copy = this.#copy;
    if (copy === undefined) return;
    copy.stopAsked = true;
    // Statuses sent before it arrive before it.
    this.server.scheduler.after(this.server.habits.networkMs, () => {
      if (this.silent || this.#closed || this.#copy !== copy) return;
      if (copy.ending === "no") copy.ending = "asked";
      this.#deliverSoon();
      if (copy.bytesOnTheWay === 0 && !copy.delivering) this.#deliver();
    });
  }

  /** The server's own clock: keepalives, and the end of its patience. */
  #watch(): void {
    const { scheduler, habits, random, watcher } = this.server;
    scheduler.after(habits.keepaliveMs, () => {
      if (this.#closed) return;
      this.#watch();
      const copy = this.#copy;
      if (copy === undefined) return;
      const quietMs = scheduler.nowMs - copy.statusAtMs;
      if (quietMs > 2 * SERVER_PATIENCE_MS) {
        if (!this.silent && this.process.alive) {
          watcher.violation(`P9: the server heard nothing for ${Math.round(quietMs / 1000)} s`);
        }
        this.silent = false;
        this.cut("terminating walsender process due to replication timeout");
        return;
      }
      if (this.silent) return;
      if (
        this.process.alive && !copy.stopAsked && copy.ending === "no" &&
        quietMs > habits.statusIntervalMs + 2500
      ) {
        watcher.violation(`P9: the receiver said nothing for ${Math.round(quietMs)} ms`);
      }
      this.#keepalive(copy, quietMs > SERVER_PATIENCE_MS || random.chance(0.3));
    });
  }

  #end(error: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    const copy = this.#copy;
    this.#copy = undefined;
    // A half-open connection stays in use at the server until it notices.
    if (this.silent) this.server.scheduler.after(2 * SERVER_PATIENCE_MS, () => this.server.forget(this));
    else this.server.forget(this);
    if (!this.process.alive) return;
    for (const reject of this.#pendingRejects) reject(error);
    this.#pendingRejects.clear();
    copy?.settle.reject(error);
  }
}

interface Command {
  decode(answer: Answer): never;
}

/** All of the message but the WAL, which follows it. */
function encodeXLogData(startLsn: bigint, endLsn: bigint, walBytes: number): Uint8Array {
  const frame = new Uint8Array(30);
  const view = new DataView(frame.buffer);
  view.setUint8(0, 0x64);
  view.setUint32(1, frame.length + walBytes - 1);
  view.setUint8(5, 0x77);
  view.setBigUint64(6, startLsn);
  view.setBigUint64(14, endLsn);
  return frame;
}

function encodeKeepalive(endLsn: bigint, replyRequested: boolean): Uint8Array {
  const frame = new Uint8Array(23);
  const view = new DataView(frame.buffer);
  view.setUint8(0, 0x64);
  view.setUint32(1, 22);
  view.setUint8(5, 0x6b);
  view.setBigUint64(6, endLsn);
  view.setUint8(22, replyRequested ? 1 : 0);
  return frame;
}
