/** Transactions of every kind on a real server, with what the server itself says of each. */
import { type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { type Timestamp, timestampOfUnix } from "../../lib/wal/timestamp.ts";
import type { Cluster, Settings } from "./cluster.ts";

/** Settings that the ledger needs: the server remembers commit times, and its WAL holds all there can be. */
export const LEDGER_SETTINGS: Settings = {
  wal_level: "logical",
  track_commit_timestamp: "on",
  max_prepared_transactions: "10",
  autovacuum: "off",
  checkpoint_timeout: "1h",
  max_wal_size: "2GB",
};

/** A transaction that ended. */
export interface LedgerEnd {
  readonly what: string;
  readonly kind: "commit" | "abort";
  readonly xid: number;
  /** Those that the record of its end must name. */
  readonly subxids: readonly number[];
  readonly isPrepared: boolean;
  readonly gid: string | undefined;
  /** The server's own word (`pg_xact_commit_timestamp`); not of aborts, nor of what came from another origin, whose time it tells. */
  readonly time: Timestamp | undefined;
  /** The server's clock before and after. */
  readonly between: readonly [Timestamp, Timestamp];
  /** Of the WAL, before and after. */
  readonly range: readonly [Lsn, Lsn];
}

/** A restore point, and the end of its record. */
export interface LedgerPoint {
  readonly name: string;
  readonly endLsn: Lsn;
  readonly between: readonly [Timestamp, Timestamp];
}

/** What a server did, by its own word. */
export interface TransactionLedger {
  readonly ends: readonly LedgerEnd[];
  readonly points: readonly LedgerPoint[];
}

interface Told {
  readonly xid: number;
  readonly subxids?: readonly number[];
  readonly gid?: string;
}

const FROM_ELSEWHERE = "of another origin";

type Session = ReturnType<Cluster["connect"]>;

/** Runs transactions of every kind, one after the other. */
export async function runTransactions(cluster: Cluster): Promise<TransactionLedger> {
  const sql = cluster.connect();
  const ends: LedgerEnd[] = [];
  const points: LedgerPoint[] = [];
  const clock = async () => {
    const [row] = await sql.unsafe(`SELECT ${microseconds("now")} AS us FROM clock_timestamp() AS now`);
    return timestampOf(row?.["us"]);
  };
  const end = async () =>
    parseLsn((await sql.unsafe("SELECT pg_current_wal_insert_lsn()::text AS lsn"))[0]?.["lsn"]);
  const note = async (
    what: string,
    kind: "commit" | "abort",
    run: () => Promise<Told>,
    isPrepared = false,
  ) => {
    const [beforeLsn, before] = [await end(), await clock()];
    const { xid, subxids = [], gid } = await run();
    const [after, afterLsn] = [await clock(), await end()];
    const [row] = kind === "commit"
      ? await sql.unsafe(
        `SELECT ${microseconds("time")} AS us FROM pg_xact_commit_timestamp('${xid}'::xid) AS time`,
      )
      : [];
    ends.push({
      what,
      kind,
      xid,
      subxids,
      isPrepared,
      gid,
      time: row === undefined || what === FROM_ELSEWHERE ? undefined : timestampOf(row["us"]),
      between: [before, after],
      range: [beforeLsn, afterLsn],
    });
  };
  const point = async (name: string) => {
    const before = await clock();
    const [row] = await sql.unsafe("SELECT pg_create_restore_point($1)::text AS lsn", [name]);
    points.push({ name, endLsn: parseLsn(row?.["lsn"]), between: [before, await clock()] });
  };
  try {
    await sql.unsafe("CREATE TABLE ledger (n int, t text)");
    await note("one row", "commit", () => inTransaction(sql, "COMMIT", ["INSERT INTO ledger VALUES (1)"]));
    await point("first point");
    await note("subtransactions", "commit", () =>
      inTransaction(sql, "COMMIT", [
        "INSERT INTO ledger VALUES (2)",
        "SAVEPOINT a",
        subtransaction(3),
        "SAVEPOINT b",
        subtransaction(4),
      ]));
    await note(
      "rolled back",
      "abort",
      () => inTransaction(sql, "ROLLBACK", ["INSERT INTO ledger VALUES (5)"]),
    );
    await note("savepoint rolled back", "commit", () =>
      inTransaction(sql, "COMMIT", [
        "INSERT INTO ledger VALUES (6)",
        "SAVEPOINT a",
        "INSERT INTO ledger VALUES (7)",
        "ROLLBACK TO a",
        "RELEASE a",
        "INSERT INTO ledger VALUES (8)",
      ]));
    await sql.unsafe("CREATE TABLE dropped (n int PRIMARY KEY, t text); INSERT INTO dropped VALUES (1)")
      .simple();
    await note("table dropped", "commit", () => inTransaction(sql, "COMMIT", ["DROP TABLE dropped"]));
    for (const [number, ending] of [[1, "COMMIT"], [2, "ROLLBACK"]] as const) {
      const gid = `prepared ${number}`;
      await sql.unsafe(`CREATE TABLE prepared_${number} (n int PRIMARY KEY, t text)`);
      const drop = `DROP TABLE prepared_${number}`;
      const told = await inTransaction(sql, `PREPARE TRANSACTION '${gid}'`, [
        "SAVEPOINT a",
        subtransaction(9),
        drop,
      ]);
      await note(`prepared, ${ending.toLowerCase()}`, ending === "COMMIT" ? "commit" : "abort", async () => {
        await sql.unsafe(`${ending} PREPARED '${gid}'`);
        return { ...told, gid };
      }, true);
    }
    await sql.unsafe("SELECT pg_replication_origin_create('elsewhere')");
    await sql.unsafe("SELECT pg_replication_origin_session_setup('elsewhere')");
    await note(FROM_ELSEWHERE, "commit", () =>
      inTransaction(sql, "COMMIT", [
        "INSERT INTO ledger VALUES (10)",
        "SELECT pg_replication_origin_xact_setup('0/1234', now())",
      ]));
    await sql.unsafe("SELECT pg_replication_origin_session_reset()");
    await point('it\'s a "point"');
    await sql.unsafe("CREATE TABLE many (n int, x xid)");
    await note("1500 subtransactions", "commit", async () => {
      const { xid } = await inTransaction(sql, "COMMIT", [
        `DO $$ BEGIN FOR i IN 1..1500 LOOP
           BEGIN INSERT INTO many VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END $$`,
      ]);
      const rows = await sql.unsafe("SELECT xmin::text AS xid FROM many ORDER BY n");
      return { xid, subxids: rows.map((row) => Number(row["xid"])) };
    });
    return { ends, points };
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** Microseconds since 1970 as text; a double, as up to 13, would lose the last ones. */
function microseconds(expression: string): string {
  return `(extract(epoch FROM date_trunc('second', ${expression}))::bigint * 1000000 + ` +
    `to_char(${expression}, 'US')::bigint)::text`;
}

function subtransaction(n: number): string {
  return `INSERT INTO ledger VALUES (${n}) RETURNING xmin::text AS subxid`;
}

async function inTransaction(sql: Session, ending: string, statements: readonly string[]): Promise<Told> {
  const subxids: number[] = [];
  await sql.unsafe("BEGIN");
  const [row] = await sql.unsafe("SELECT txid_current()::text AS xid");
  for (const statement of statements) {
    for (const told of await sql.unsafe(statement)) {
      if (told["subxid"] !== undefined) subxids.push(Number(told["subxid"]));
    }
  }
  await sql.unsafe(ending);
  return { xid: Number(BigInt(row?.["xid"]) & 0xffff_ffffn), subxids };
}

function timestampOf(us: string): Timestamp {
  return timestampOfUnix(BigInt(us));
}
