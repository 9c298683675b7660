/**
 * A walsender that sends the same WAL again and again, each page with the address it has then; a process of its own.
 *
 * `deno run -A scripted_walsender.ts MEGABYTES_PER_SECOND`: its first line on stdout is the port, each later one what it
 * has seen since it began, as JSON; at the end of stdin it ends.
 */
import net from "node:net";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { frame } from "../protocol/frames.ts";
import { buildWal, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

export const SEGMENT_BYTES = 16 << 20;
export const START_LSN = 5n * BigInt(SEGMENT_BYTES);
const MESSAGE_BYTES = 128 << 10;
const PAGE_BYTES = 8192;
const PAGE_ADDRESS_OFFSET = 8;
const TICK_MS = 10;
const KEEPALIVE_MS = 1000;

/** What it has seen. */
export interface SenderFacts {
  readonly sentBytes: number;
  readonly flushedBytes: number;
  readonly connections: number;
  readonly statuses: number;
  /** The longest time without a status. */
  readonly longestSilenceMs: number;
  /** A flush position beyond what was sent, or behind an earlier one. */
  readonly wrongFlushes: number;
}

const text = (value: string) => new TextEncoder().encode(value);

function rows(columns: readonly (readonly [name: string, value: string])[]): Uint8Array {
  const two = (value: number) => [value >> 8, value & 0xff];
  const head = columns.flatMap((
    [name],
  ) => [...text(name), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0]);
  const data = columns.flatMap(([, value]) => [0, 0, ...two(value.length), ...text(value)]);
  return Buffer.concat([
    frame("T", [...two(columns.length), ...head]),
    frame("D", [...two(columns.length), ...data]),
    frame("C", [...text("SHOW"), 0]),
    frame("Z", [0x49]),
  ]);
}

/** Sends to whoever connects; one at a time is meant. */
class Walsender {
  sent = START_LSN;
  flushed = START_LSN;
  connections = 0;
  statuses = 0;
  wrongFlushes = 0;
  longestSilenceMs = 0;
  readonly #segment: Uint8Array;

  constructor(private readonly bytesPerSecond: number) {
    const records = Array.from({ length: SEGMENT_BYTES / 8000 }, () => ({ totalBytes: 8000 }));
    const { segments } = buildWal({ startLsn: START_LSN, segmentBytes: SEGMENT_BYTES, records });
    this.#segment = segments[0]!;
  }

  serve(socket: net.Socket): void {
    this.connections++;
    let input: Buffer = Buffer.alloc(0);
    let loggedIn = false;
    let open = true;
    let heardAtMs = 0;
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.on("close", () => open = false);
    const answer = (command: string): Uint8Array | undefined => {
      if (/^SHOW server_version_num/i.test(command)) return rows([["server_version_num", "150018"]]);
      if (/^SHOW wal_segment_size/i.test(command)) return rows([["wal_segment_size", "16MB"]]);
      if (/^SHOW/i.test(command)) return rows([["setting", ""]]);
      if (/^IDENTIFY_SYSTEM/i.test(command)) {
        return rows([
          ["systemid", String(SYSTEM_IDENTIFIER)],
          ["timeline", "1"],
          [
            "xlogpos",
            `${(this.sent >> 32n).toString(16).toUpperCase()}/${
              (this.sent & 0xffffffffn).toString(16).toUpperCase()
            }`,
          ],
          ["dbname", ""],
        ]);
      }
      return undefined;
    };
    const onMessage = (type: string, body: Buffer) => {
      if (type === "Q") {
        const command = body.subarray(0, -1).toString();
        const start = /^START_REPLICATION .*?([0-9A-F]+)\/([0-9A-F]+)/i.exec(command);
        if (start === null) {
          const reply = answer(command);
          if (reply === undefined) throw new Error(`Cannot answer "${command}"`);
          socket.write(reply);
          return;
        }
        socket.write(frame("W", [0, 0, 0]));
        heardAtMs = performance.now();
        const startLsn = (BigInt(`0x${start[1]}`) << 32n) + BigInt(`0x${start[2]}`);
        void this.#stream(socket, startLsn, () => open);
      } else if (type === "d" && body[0] === 0x72) {
        this.statuses++;
        const nowMs = performance.now();
        this.longestSilenceMs = Math.max(this.longestSilenceMs, nowMs - heardAtMs);
        heardAtMs = nowMs;
        const flushed = body.readBigUInt64BE(9);
        if (flushed > this.sent || flushed < this.flushed) this.wrongFlushes++;
        this.flushed = flushed;
      } else if (type === "c") {
        socket.write(Buffer.concat([frame("c", []), frame("C", [...text("COPY 0"), 0]), frame("Z", [0x49])]));
        open = false;
      }
    };
    socket.on("data", (chunk: Buffer) => {
      input = input.length === 0 ? chunk : Buffer.concat([input, chunk]);
      for (;;) {
        const head = loggedIn ? 1 : 0;
        if (input.length < head + 4) return;
        const bytes = head + input.readUInt32BE(head);
        if (input.length < bytes) return;
        const message = input.subarray(0, bytes);
        input = input.subarray(bytes);
        if (!loggedIn) {
          loggedIn = true;
          socket.write(
            Buffer.concat([
              frame("R", [0, 0, 0, 0]),
              frame("K", [0, 0, 0, 1, 0, 0, 0, 2]),
              frame("Z", [0x49]),
            ]),
          );
        } else onMessage(String.fromCharCode(message[0]!), message.subarray(5));
      }
    });
  }

  async #stream(socket: net.Socket, startLsn: bigint, isOpen: () => boolean): Promise<void> {
    let position = startLsn;
    this.flushed = startLsn;
    if (position > this.sent) this.sent = position;
    const beganMs = performance.now();
    let askedAtMs = beganMs;
    let full = false;
    socket.on("drain", () => full = false);
    while (isOpen()) {
      const nowMs = performance.now();
      if (nowMs - askedAtMs >= KEEPALIVE_MS) {
        askedAtMs = nowMs;
        socket.write(this.#keepalive(position));
      }
      // What a pause held up is not made up for faster than this.
      const due = startLsn + BigInt(Math.floor((nowMs - beganMs) / 1000 * this.bytesPerSecond));
      for (
        let burst = 0;
        !full && isOpen() && position < due && burst < this.bytesPerSecond / 20;
        burst += MESSAGE_BYTES
      ) {
        const message = this.#wal(position);
        position += BigInt(MESSAGE_BYTES);
        if (position > this.sent) this.sent = position;
        full = !socket.write(message);
      }
      await sleep(full || position >= due ? TICK_MS : 0);
    }
    socket.end();
  }

  #wal(position: bigint): Uint8Array {
    const offset = Number(position % BigInt(SEGMENT_BYTES));
    const message = Buffer.allocUnsafe(30 + MESSAGE_BYTES);
    message[0] = 0x64;
    message.writeUInt32BE(29 + MESSAGE_BYTES, 1);
    message[5] = 0x77;
    message.writeBigUInt64BE(position, 6);
    message.writeBigUInt64BE(position + BigInt(MESSAGE_BYTES), 14);
    message.writeBigUInt64BE(0n, 22);
    message.set(this.#segment.subarray(offset, offset + MESSAGE_BYTES), 30);
    for (let page = 0; page < MESSAGE_BYTES; page += PAGE_BYTES) {
      message.writeBigUInt64LE(position + BigInt(page), 30 + page + PAGE_ADDRESS_OFFSET);
    }
    return message;
  }

  #keepalive(position: bigint): Uint8Array {
    const body = Buffer.alloc(18);
    body[0] = 0x6b;
    body.writeBigUInt64BE(position, 1);
    body[17] = 1;
    return frame("d", body);
  }

  get facts(): SenderFacts {
    const { connections, statuses, longestSilenceMs, wrongFlushes } = this;
    const [sentBytes, flushedBytes] = [this.sent, this.flushed].map((lsn) => Number(lsn - START_LSN));
    return {
      sentBytes: sentBytes!,
      flushedBytes: flushedBytes!,
      connections,
      statuses,
      longestSilenceMs,
      wrongFlushes,
    };
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const sender = new Walsender(Number(process.argv[2]) * 1e6);
  let telling: ReturnType<typeof setInterval> | undefined;
  const server = net.createServer((socket) => sender.serve(socket));
  server.listen(0, "127.0.0.1", () => {
    process.stdout.write(`${(server.address() as net.AddressInfo).port}\n`);
    telling = setInterval(() => process.stdout.write(JSON.stringify(sender.facts) + "\n"), 500);
  });
  process.stdin.on("end", () => {
    clearInterval(telling);
    server.close();
  });
  process.stdin.resume();
}
