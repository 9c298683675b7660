import { setImmediate } from "node:timers";
import { createLog, type Log, type LogEntry } from "../../lib/log.ts";
import { ConnectionError, ServerError } from "../../lib/protocol/errors.ts";
import type { SocketLoan } from "../../lib/protocol/replication.ts";
import type { StandbyStatus } from "../../lib/protocol/standby_status.ts";
import type { Clock } from "../../lib/receiver/clock.ts";
import { numbersOf, type SegmentRun } from "../../lib/wal/lineage.ts";
import type {
  ArchiveContents,
  GapArchive,
  LegListener,
  MissingWal,
  Overlap,
  ShortOfRoom,
  UnprovenSegment,
  WalSink,
} from "../../lib/receiver/wal_archive.ts";
import type {
  SlotPosition,
  StreamEnd,
  SystemIdentity,
  WalSource,
  WalStream,
  WalStreamHandler,
} from "../../lib/receiver/wal_source.ts";
import { WrongClusterError } from "../../lib/wal/errors.ts";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import { advance, formatLsn, type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentNumberAt, type SegmentSize, segmentSize } from "../../lib/wal/segment.ts";
import { type TimelineId, timelineId } from "../../lib/wal/timeline.ts";

export const MIB = 1024 * 1024;
export const SIZE = segmentSize(MIB);
export const SYSTEM_IDENTIFIER = 7_300_000_000_000_000_001n;

/** The LSN so many segments of 1 MiB behind the beginning: `at(4.5)` is in the middle of segment 4. */
export function at(segments: number): Lsn {
  return lsn(BigInt(segments * MIB));
}

/** Until everything that can happen without time passing has happened. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Time that passes only when a test says so. */
export class FakeClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  get timers(): number {
    return this.#timers.size;
  }

  setTimer(delayMs: number, callback: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  async advance(byMs: number): Promise<void> {
    await settled();
    const endMs = this.#nowMs + byMs;
    for (;;) {
      const due = [...this.#timers].filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      this.#timers.delete(due);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.callback();
      await settled();
    }
    this.#nowMs = endMs;
  }
}

/** What happened, in order: one line each. */
export type Journal = string[];

/** A disk that is quick, or stalls until it is told otherwise. */
export class FakeSink implements WalSink {
  receivedLsn: Lsn;
  writeLsn: Lsn;
  flushLsn: Lsn;
  congested = false;
  shortOfRoom: ShortOfRoom | undefined;
  stalled: boolean;
  released = false;
  #failed = false;
  #waiting: (() => void)[] = [];

  constructor(
    startLsn: Lsn,
    readonly listener: LegListener,
    private readonly options: {
      readonly stalled: boolean;
      readonly journal: Journal;
      onDurable(flushLsn: Lsn): void;
    },
  ) {
    this.receivedLsn = this.writeLsn = this.flushLsn = startLsn;
    this.stalled = options.stalled;
  }

  get idle(): boolean {
    return this.flushLsn === this.receivedLsn;
  }

  push(bytes: Uint8Array): void {
    this.receivedLsn = advance(this.receivedLsn, bytes.length);
  }

  /** The socket, while the sink has it; `endLoan` gives it back. */
  loan: { serverEndLsn: Lsn; heardCount: number; end(): void } | undefined;
  loanEndAsked = false;
  #lender: SocketLoan | undefined;

  /** Asks for the socket, as an idle sink does; false when it is not lent. */
  borrow(): boolean {
    this.#lender = this.listener.onIdle?.();
    if (this.#lender === undefined) return false;
    this.loan = { serverEndLsn: this.receivedLsn, heardCount: 0, end: () => this.loanEndAsked = true };
    return true;
  }

  /** What came over the socket meanwhile is durable. */
  endLoan(rest = new Uint8Array(0)): void {
    const heardCount = this.loan?.heardCount ?? 0;
    this.loan = undefined;
    const [nextLsn, serverEndLsn] = [this.receivedLsn, this.receivedLsn];
    this.#lender?.giveBack({ nextLsn, rest, tornStatus: false, serverEndLsn, heardCount });
  }

  setServerEnd(): void {}

  drained(): void {
    queueMicrotask(() => {
      if (!this.stalled) this.flush();
    });
  }

  /** Written to the operating system, not synced. */
  write(upTo = this.receivedLsn): void {
    this.writeLsn = upTo;
    this.listener.onProgress();
  }

  flush(upTo = this.receivedLsn): void {
    if (this.#failed || upTo === this.flushLsn) return this.#release();
    this.writeLsn = this.flushLsn = upTo;
    this.options.journal.push(`durable ${formatLsn(upTo)}`);
    this.options.onDurable(upTo);
    this.listener.onProgress();
    this.#release();
  }

  recover(): void {
    this.stalled = false;
    this.congested = false;
    this.flush();
  }

  fail(error: unknown): void {
    this.#failed = true;
    this.listener.onFailure(error);
    this.#release();
  }

  finish(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(() => {
        this.released = true;
        resolve();
      });
      if (!this.stalled || this.#failed) this.flush();
    });
  }

  abandon(): Promise<void> {
    this.options.journal.push("abandoned");
    this.released = true;
    return Promise.resolve();
  }

  #release(): void {
    if (!this.idle && !this.#failed) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** An archive in memory. */
export class FakeArchive implements GapArchive {
  readonly complete = new Set<string>();
  readonly unfinished = new Set<string>();
  /** Where valid WAL ends in some of them. */
  readonly unfinishedEnds = new Map<string, Lsn | Error>();
  readonly histories = new Map<number, string>();
  readonly sinks: FakeSink[] = [];
  /** What was written down, and given up. */
  readonly recorded: SegmentRun[] = [];
  readonly accepted: SegmentRun[] = [];
  readonly healed: SegmentRun[] = [];
  /** Names that are there, and not what they should be. */
  readonly damaged = new Set<string>();
  /** Held up while it is set. */
  proving: Promise<void> | undefined;
  proofs = 0;
  readonly missing: MissingWal[] = [];
  owner = SYSTEM_IDENTIFIER;
  stalled = false;
  /** Thrown at the next call. */
  error: unknown;
  /** Calls that a stalled disk does not answer before `recover()`. */
  readonly silent = new Set<"claim" | "contents" | "store history" | "open leg" | "ledger">();
  readonly #recovered = Promise.withResolvers<void>();

  constructor(readonly journal: Journal = []) {}

  recover(): void {
    this.#recovered.resolve();
  }

  get sink(): FakeSink {
    return this.sinks.at(-1)!;
  }

  addSegments(timeline: number, first: number, end: number): void {
    for (let number = first; number < end; number++) this.complete.add(`${timeline}/${number}`);
  }

  claim(server: { readonly systemIdentifier: bigint; readonly segmentSize: SegmentSize }): Promise<void> {
    if (server.systemIdentifier === this.owner) return this.#answer("claim", undefined);
    return Promise.reject(
      new WrongClusterError(`it belongs to ${this.owner}, not ${server.systemIdentifier}`),
    );
  }

  unfinishedEnd(
    { timeline, number }: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  ): Promise<Lsn | undefined> {
    const end = this.unfinishedEnds.get(`${timeline}/${number}`);
    return end instanceof Error ? Promise.reject(end) : Promise.resolve(end);
  }

  contents(): Promise<ArchiveContents> {
    const parse = (name: string) => {
      const [timeline, number] = name.split("/").map(Number) as [number, number];
      return { timeline: timelineId(timeline), number: BigInt(number) as SegmentNumber };
    };
    return this.#answer("contents", {
      runs: joined([...this.complete].map(parse)),
      histories: [...this.histories].map(([timeline, text]) => ({
        timeline: timelineId(timeline),
        bytes: new TextEncoder().encode(text),
      })),
      unfinished: [...this.unfinished].map(parse),
      incomplete: [],
      gaps: this.#gaps,
    });
  }

  room: ShortOfRoom | undefined;

  shortOfRoom(): Promise<ShortOfRoom | undefined> {
    return Promise.resolve(this.room);
  }

  storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<"stored" | "present"> {
    if (this.histories.has(timeline)) return this.#answer("store history", "present");
    this.histories.set(timeline, new TextDecoder().decode(bytes));
    this.journal.push(`history ${timeline} durable`);
    return this.#answer("store history", "stored");
  }

  /** What is asked of a server before it is followed. */
  overlap: Overlap | undefined;
  readonly sentOverlaps: { readonly bytes: Uint8Array; readonly server: string }[] = [];
  /** Thrown when it has come. */
  overlapError: unknown;

  planOverlap(): Promise<Overlap | undefined> {
    return Promise.resolve(this.overlap);
  }

  compareOverlap(sent: { readonly bytes: Uint8Array; readonly server: string }): Promise<void> {
    this.sentOverlaps.push(sent);
    this.journal.push("overlap compared");
    return this.overlapError === undefined ? Promise.resolve() : Promise.reject(this.overlapError);
  }

  recordGap(missing: MissingWal): Promise<void> {
    this.missing.push(missing);
    this.recorded.push(missing.run);
    return this.#ledger("record", missing.run);
  }

  confirmGap(run: SegmentRun): Promise<void> {
    return this.#ledger("confirm", run);
  }

  gapMark(): Promise<string> {
    return Promise.resolve(`${this.recorded.length} ${this.accepted.length} ${this.healed.length}`);
  }

  ledgerGaps(): Promise<ArchiveContents["gaps"]> {
    return Promise.resolve(this.#gaps);
  }

  get #gaps() {
    const { recorded, accepted, healed } = this;
    return { recorded: [...recorded, ...accepted], accepted: [...accepted], healed: [...healed] };
  }

  async proveSegments(run: SegmentRun, signal?: AbortSignal): Promise<readonly UnprovenSegment[]> {
    this.proofs++;
    const aborted = new Promise<void>((resolve) => signal?.addEventListener("abort", () => resolve()));
    if (this.proving !== undefined) await Promise.race([this.proving, aborted]);
    signal?.throwIfAborted();
    return [...numbersOf(run)].map((number) => `${run.timeline}/${number}`)
      .filter((name) => this.damaged.has(name) || !this.complete.has(name))
      .map((name) => ({ name, problem: "it is damaged" }));
  }

  /** Something stands right behind every gap. */
  anchored = true;

  isAnchored(): Promise<boolean> {
    return Promise.resolve(this.anchored);
  }

  recordHealed(run: SegmentRun): Promise<void> {
    this.healed.push(run);
    return this.#ledger("heal", run);
  }

  syncNames(): Promise<void> {
    return Promise.resolve();
  }

  hasSegment(segment: { readonly timeline: TimelineId; readonly number: SegmentNumber }): Promise<boolean> {
    return Promise.resolve(this.complete.has(`${segment.timeline}/${segment.number}`));
  }

  #ledger(verb: string, { timeline, firstNumber, endNumber }: SegmentRun): Promise<void> {
    this.journal.push(`${verb} gap ${timeline} ${firstNumber}-${endNumber}`);
    return this.#answer("ledger", undefined);
  }

  openLeg(
    { startLsn, lineage }: { readonly startLsn: Lsn; readonly lineage: TimelineHistory },
    listener: LegListener,
  ): Promise<WalSink> {
    const { timeline } = lineage;
    const { stalled, journal } = this;
    const onDurable = (flushLsn: Lsn) => {
      const end = segmentNumberAt(flushLsn, SIZE);
      for (let number = segmentNumberAt(startLsn, SIZE); number < end; number++) {
        this.unfinished.delete(`${timeline}/${number}`);
        this.complete.add(`${timeline}/${number}`);
      }
      if (flushLsn % BigInt(SIZE) !== 0n) this.unfinished.add(`${timeline}/${end}`);
    };
    const sink = new FakeSink(startLsn, listener, { stalled, journal, onDurable });
    this.sinks.push(sink);
    return this.#answer("open leg", sink);
  }

  async #answer<T>(
    call: "claim" | "contents" | "store history" | "open leg" | "ledger",
    value: T,
  ): Promise<T> {
    if (this.silent.has(call)) await this.#recovered.promise;
    const { error } = this;
    this.error = undefined;
    if (error !== undefined) throw error;
    return value;
  }
}

function joined(segments: readonly { readonly timeline: TimelineId; readonly number: SegmentNumber }[]) {
  const runs: { timeline: TimelineId; firstNumber: SegmentNumber; endNumber: SegmentNumber }[] = [];
  const sorted = [...segments].sort((a, b) => a.timeline - b.timeline || Number(a.number - b.number));
  for (const { timeline, number } of sorted) {
    const last = runs.at(-1);
    const endNumber = number + 1n as SegmentNumber;
    if (last?.timeline === timeline && last.endNumber === number) last.endNumber = endNumber;
    else runs.push({ timeline, firstNumber: number, endNumber });
  }
  return runs;
}

/** What a server of PostgreSQL would refuse with. */
export function serverError(sqlState: string, message = "no"): ServerError {
  return new ServerError("Cannot ask db:5432", {
    severity: "ERROR",
    sqlState,
    message,
    detail: undefined,
    hint: undefined,
    fields: new Map(),
  });
}

/** A server: what it says, and how it behaves. */
export class FakeServer {
  address = "db:5432";
  serverVersion = 150_004;
  systemIdentifier = SYSTEM_IDENTIFIER;
  /** Who answers at the same address on another connection. */
  afreshIdentifier = SYSTEM_IDENTIFIER;
  timeline = 1;
  flushLsn = at(3.5);
  readonly settings = new Map([
    ["wal_segment_size", "1MB"],
    ["synchronous_standby_names", ""],
    ["synchronous_commit", "on"],
  ]);
  readonly histories = new Map<number, string>();
  readonly slots = new Map<string, SlotPosition>();
  /** Below it WAL is removed; told when the stream has begun, or at once. */
  removedBelow = at(0);
  tellsRemoved: "at once" | "in the stream" = "in the stream";
  /** Rejects every connection, or START_REPLICATION, or the creation of a slot. */
  connectError: unknown;
  startError: unknown;
  /** The slot is refused, whatever is asked for. */
  slotInvalidated = false;
  createError: unknown;
  /** Commands that get no answer. */
  readonly silent = new Set<string>();
  confirmsStop = true;
  /** Whether its streams lend their sockets. */
  lends = false;
  /** Called when a stream has begun. */
  onStart: (source: FakeSource) => void = () => {};
  readonly sources: FakeSource[] = [];

  constructor(readonly journal: Journal = []) {}

  get source(): FakeSource {
    return this.sources.at(-1)!;
  }

  open(): FakeSource {
    const source = new FakeSource(this);
    this.sources.push(source);
    return source;
  }
}

/** One connection to it. */
export class FakeSource implements WalSource {
  readonly statuses: StandbyStatus[] = [];
  readonly asked: string[] = [];
  closed = false;
  paused = false;
  lent = false;
  stopSaid = false;
  nextLsn = at(0);
  /** Called before a status goes out. */
  onStatus: () => void = () => {};
  #handler: WalStreamHandler | undefined;
  #queue: (() => void)[] = [];
  #end = Promise.withResolvers<StreamEnd>();
  readonly #closed = Promise.withResolvers<never>();

  constructor(private readonly server: FakeServer) {
    for (const { promise } of [this.#closed, this.#end]) promise.catch(() => {});
  }

  get address(): string {
    return this.server.address;
  }

  get serverVersion(): number {
    return this.server.serverVersion;
  }

  identifySystem(): Promise<SystemIdentity> {
    const { systemIdentifier, timeline, flushLsn } = this.server;
    return this.#answer("identify", () => ({ systemIdentifier, timeline: timelineId(timeline), flushLsn }));
  }

  show(name: string): Promise<string> {
    return this.#answer(`show ${name}`, () => this.server.settings.get(name) ?? "");
  }

  showAfresh(name: string): Promise<{ readonly systemIdentifier: bigint; readonly value: string }> {
    this.asked.push(`show ${name} afresh`);
    if (this.server.silent.has("afresh")) return this.#closed.promise;
    const { afreshIdentifier: systemIdentifier, settings } = this.server;
    return Promise.resolve({ systemIdentifier, value: settings.get(name) ?? "" });
  }

  readSlot(name: string): Promise<SlotPosition | undefined> {
    return this.#answer("read slot", () => this.server.slots.get(name));
  }

  createSlot(name: string): Promise<void> {
    return this.#answer("create slot", () => {
      const { createError, slots, flushLsn } = this.server;
      if (createError !== undefined) throw createError;
      if (slots.has(name)) throw serverError("42710", `replication slot "${name}" already exists`);
      slots.set(name, { kind: "physical", restartLsn: flushLsn, restartTimeline: undefined });
    });
  }

  dropSlot(name: string): Promise<void> {
    return this.#answer("drop slot", () => {
      this.server.slots.delete(name);
      this.server.slotInvalidated = false;
      this.server.journal.push(`drop slot ${name}`);
    });
  }

  timelineHistory(timeline: TimelineId): Promise<Uint8Array | undefined> {
    return this.#answer(`history ${timeline}`, () => {
      const text = this.server.histories.get(timeline);
      return text === undefined ? undefined : new TextEncoder().encode(text);
    });
  }

  startReplication(
    options: { readonly slot: string | undefined; readonly startLsn: Lsn; readonly timeline: TimelineId },
    handler: WalStreamHandler,
  ): Promise<WalStream> {
    const { slot, startLsn, timeline } = options;
    this.server.journal.push(
      `start ${timeline} ${formatLsn(startLsn)}${slot === undefined ? "" : ` slot ${slot}`}`,
    );
    return this.#answer("start", () => {
      if (this.server.startError !== undefined) throw this.server.startError;
      if (timeline > this.server.timeline) {
        throw serverError("XX000", `requested timeline ${timeline} is not in this server's history`);
      }
      if (slot !== undefined && this.server.slotInvalidated) {
        throw serverError("55000", `can no longer access replication slot "${slot}"`);
      }
      const isRemoved = startLsn < this.server.removedBelow;
      const removed = serverError("58P01", "requested WAL segment has already been removed");
      if (isRemoved && this.server.tellsRemoved === "at once") throw removed;
      this.#handler = handler;
      this.nextLsn = startLsn;
      this.stopSaid = false;
      this.#end = Promise.withResolvers<StreamEnd>();
      this.#end.promise.catch(() => {});
      const stream: WalStream = {
        ended: this.#end.promise,
        sendStatus: (status) => {
          if (this.closed || this.stopSaid) return;
          this.onStatus();
          this.statuses.push(status);
          this.server.journal.push(`status ${formatLsn(status.writeLsn)} ${formatLsn(status.flushLsn)}`);
        },
        pause: () => {
          this.paused = true;
        },
        resume: () => {
          this.paused = false;
          for (const deliver of this.#queue.splice(0)) this.#deliver(deliver);
        },
        lend: () => {
          if (!this.server.lends) return undefined;
          this.lent = true;
          return {
            descriptor: 42,
            giveBack: (state) => {
              this.lent = false;
              this.nextLsn = state.nextLsn;
              this.server.journal.push(`given back ${formatLsn(state.nextLsn)}`);
            },
          };
        },
        stop: () => {
          this.stopSaid = true;
          this.server.journal.push("copy done");
          if (this.server.confirmsStop) this.#deliver(() => this.#end.resolve({ kind: "stopped" }));
        },
      };
      if (isRemoved) this.fail(removed);
      else this.server.onStart(this);
      return stream;
    });
  }

  close(): Promise<void> {
    if (this.closed) return Promise.resolve();
    this.closed = true;
    this.server.journal.push("closed");
    const error = new ConnectionError("closed", `Cannot stream WAL from ${this.address}: we closed it`);
    this.#end.reject(error);
    this.#closed.reject(error);
    return Promise.resolve();
  }

  /** WAL in messages of this many bytes, all of them in one piece of the socket. */
  send(...messages: number[]): void {
    this.#deliver(() => {
      for (const bytes of messages) {
        this.#handler!.onWal(this.nextLsn, new Uint8Array(bytes));
        this.nextLsn = advance(this.nextLsn, bytes);
        this.#handler!.onServerPosition({ walEndLsn: this.nextLsn, replyRequested: false });
      }
      this.#handler!.onDrained();
    });
  }

  /** WAL up to this LSN. */
  sendUpTo(endLsn: Lsn): void {
    this.send(Number(endLsn - this.nextLsn));
  }

  keepalive({ replyRequested = false } = {}): void {
    this.#deliver(() => {
      this.#handler!.onServerPosition({ walEndLsn: this.nextLsn, replyRequested });
      this.#handler!.onDrained();
    });
  }

  end(end: StreamEnd): void {
    this.#deliver(() => this.#end.resolve(end));
  }

  fail(error: unknown): void {
    this.#end.reject(error);
  }

  #deliver(deliver: () => void): void {
    if (this.paused) this.#queue.push(deliver);
    else deliver();
  }

  #answer<T>(command: string, answer: () => T): Promise<T> {
    this.asked.push(command);
    if (this.server.silent.has(command)) return this.#closed.promise;
    return Promise.race([Promise.resolve().then(answer), this.#closed.promise]);
  }
}

/** A log that keeps its entries. */
export function fakeLog(): {
  readonly log: Log;
  readonly entries: LogEntry[];
  lines(level?: string): string[];
} {
  const entries: LogEntry[] = [];
  const log = createLog({ level: "debug", now: () => new Date(0), write: (entry) => entries.push(entry) });
  const lines = (level?: string) =>
    entries.filter((entry) => level === undefined || entry.level === level)
      .map((entry) => level === undefined ? `${entry.level} ${entry.event}` : entry.event);
  return { log, entries, lines };
}

/** A promise's outcome, without waiting for it. */
export function watched<T>(promise: Promise<T>): { value: T | undefined; error: unknown; done: boolean } {
  const outcome: { value: T | undefined; error: unknown; done: boolean } = {
    value: undefined,
    error: undefined,
    done: false,
  };
  promise.then(
    (value) => Object.assign(outcome, { value, done: true }),
    (error: unknown) => Object.assign(outcome, { error, done: true }),
  );
  return outcome;
}
