/** Work for real servers in tests: rows that are written, commits that were acknowledged, positions that were told. */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, lsn, parseLsn } from "../../lib/wal/lsn.ts";
import type { Cluster } from "./cluster.ts";

/** The table that all workloads write to; its rows are as large in WAL as they are. */
export const TABLE = "CREATE TABLE work (id text PRIMARY KEY, payload text NOT NULL); " +
  "ALTER TABLE work ALTER COLUMN payload SET STORAGE EXTERNAL";

const RECONNECT_MS = 100;

/** Clients that commit row after row, and remember what they were told is committed. */
export class Ledger {
  /** Each commit with the moment, by `performance.now()`, when its client was told. */
  readonly acknowledged = new Map<string, number>();
  /** The transaction of each of them. */
  readonly xids = new Map<string, number>();
  /** Why clients ended, when not by `stop()`. */
  readonly problems: string[] = [];
  #running = true;
  readonly #clients: Promise<void>[];

  constructor(
    cluster: Cluster,
    options: {
      readonly clients: number;
      readonly payloadBytes: number;
      readonly prefix?: string;
      /** A rest after each commit, to leave the machine to others. */
      readonly pauseMs?: number;
      /** A client that loses its server connects again, and goes on with its next commit. */
      readonly comesBack?: boolean;
    },
  ) {
    this.#clients = Array.from(
      { length: options.clients },
      (_, client) => this.#run(cluster, `${options.prefix ?? ""}${client}`, options),
    );
  }

  async #run(
    cluster: Cluster,
    client: string,
    options: { readonly payloadBytes: number; readonly pauseMs?: number; readonly comesBack?: boolean },
  ): Promise<void> {
    for (let session = 0; this.#running; session++) {
      const sql = cluster.connect();
      try {
        // What a lost session wrote last may be committed all the same: no name is used twice.
        await this.#commit(sql, session === 0 ? client : `${client}-${session}`, options);
      } catch (error) {
        // The server went away under us: that commit was not acknowledged, and nobody promised it.
        this.problems.push((error as Error).message);
        if (options.comesBack !== true) return;
        await sleep(RECONNECT_MS);
      } finally {
        await sql.end({ timeout: 1 }).catch(() => {});
      }
    }
  }

  async #commit(
    sql: ReturnType<Cluster["connect"]>,
    client: string,
    options: { readonly payloadBytes: number; readonly pauseMs?: number },
  ): Promise<void> {
    for (let n = 0; this.#running; n++) {
      const id = `${client}-${n}`;
      // Random, so that it stays as large in WAL as it is.
      const payload = randomBytes(Math.max(1, options.payloadBytes / 2)).toString("hex");
      const [row] = await sql.unsafe("INSERT INTO work VALUES ($1, $2) RETURNING xmin::text AS xid", [
        id,
        payload,
      ]);
      this.acknowledged.set(id, performance.now());
      this.xids.set(id, Number(row?.["xid"]));
      if (options.pauseMs !== undefined) await sleep(options.pauseMs);
    }
  }

  /** Lets each client finish its commit. */
  async stop(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#clients);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** The acknowledged commits that a server does not have. */
export async function missingOn(cluster: Cluster, ledgers: readonly Ledger[]): Promise<readonly string[]> {
  const rows = await cluster.sql<{ id: string }>("SELECT id FROM work");
  const there = new Set(rows.map((row) => row.id));
  return ledgers.flatMap((ledger) => [...ledger.acknowledged.keys()]).filter((id) => !there.has(id));
}

/** The content of the table, as one text. */
export async function contentOf(cluster: Cluster): Promise<string> {
  return await cluster.value(
    "SELECT count(*) || ' ' || coalesce(md5(string_agg(id || payload, '' ORDER BY id)), '') FROM work",
  );
}

/** Remembers the highest flush position that the server ever showed for a receiver. */
export class FlushWatch {
  highest: Lsn = lsn(0n);
  observations = 0;
  #running = true;
  readonly #watch: Promise<void>;

  constructor(cluster: Cluster, { comesBack = false }: { readonly comesBack?: boolean } = {}) {
    this.#watch = this.#watchOn(cluster, comesBack);
  }

  async #watchOn(cluster: Cluster, comesBack: boolean): Promise<void> {
    do {
      await this.#run(cluster);
      if (this.#running && comesBack) await sleep(RECONNECT_MS);
    } while (this.#running && comesBack);
  }

  async #run(cluster: Cluster): Promise<void> {
    const sql = cluster.connect();
    try {
      while (this.#running) {
        const rows = await sql.unsafe(
          `SELECT flush_lsn::text AS lsn FROM pg_stat_replication
            WHERE application_name = 'walvault' AND flush_lsn IS NOT NULL`,
        );
        for (const row of rows) {
          const flushLsn = parseLsn(row["lsn"]);
          if (flushLsn > this.highest) this.highest = flushLsn;
          this.observations++;
        }
        await sleep(5);
      }
    } catch {
      // The server was killed under us: what it showed before is what counts.
    } finally {
      await sql.end({ timeout: 1 }).catch(() => {});
    }
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#watch;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
