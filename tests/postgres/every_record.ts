/** Work that makes a server write records of nearly every kind that it has. */
import type postgres from "postgres";
import type { Cluster, Settings } from "./cluster.ts";

/** What the server must be started with. Nothing else may write beside the work, or what is seen depends on the moment. */
export const EVERY_RECORD_SETTINGS: Settings = {
  wal_level: "logical",
  track_commit_timestamp: "on",
  max_prepared_transactions: "10",
  wal_keep_size: "2GB",
  max_wal_size: "4GB",
  autovacuum: "off",
  full_page_writes: "on",
  wal_log_hints: "on",
};

/** Tables and indexes of every kind. */
const TABLES = [
  "CREATE TABLE item (id int PRIMARY KEY, name text, tags int[], place point, span int4range, day date)",
  "CREATE INDEX item_hash ON item USING hash (id)",
  "CREATE INDEX item_gin ON item USING gin (tags) WITH (fastupdate = on)",
  "CREATE INDEX item_gin_slow ON item USING gin (tags) WITH (fastupdate = off)",
  "CREATE INDEX item_gist ON item USING gist (place)",
  "CREATE INDEX item_gist_range ON item USING gist (span)",
  "CREATE INDEX item_spgist ON item USING spgist (place)",
  "CREATE INDEX item_spgist_text ON item USING spgist (name)",
  "CREATE INDEX item_brin ON item USING brin (day) WITH (pages_per_range = 2, autosummarize = off)",
  "CREATE INDEX item_name ON item (name) WITH (fillfactor = 50)",
  "CREATE UNLOGGED TABLE passing (id int PRIMARY KEY)",
  "CREATE TABLE wide (id int, payload text)",
  "ALTER TABLE wide ALTER COLUMN payload SET STORAGE EXTERNAL",
  "CREATE SEQUENCE ticket",
  "CREATE TABLE account (id int PRIMARY KEY, owner int REFERENCES item)",
];

function rows(from: number, to: number): string {
  return `INSERT INTO item SELECT g, md5(g::text) || repeat('n', g % 50), ARRAY[g % 10, g % 100, g],
      point(g % 317, g % 211), int4range(g, g + g % 20 + 1), date '2000-01-01' + g % 5000
    FROM generate_series(${from}, ${to}) g`;
}

const CHANGES = [
  rows(1, 3000),
  "INSERT INTO passing SELECT generate_series(1, 500)",
  "UPDATE item SET name = name || 'u', day = day + 1 WHERE id % 3 = 0",
  "UPDATE item SET span = int4range(id + 1, id + 9) WHERE id % 7 = 0",
  "DELETE FROM item WHERE id % 5 = 0",
  "INSERT INTO item SELECT 1, 'again' ON CONFLICT DO NOTHING",
  "SELECT brin_summarize_new_values('item_brin')",
  "SELECT gin_clean_pending_list('item_gin')",
  "VACUUM item",
  rows(3001, 6000),
  "SELECT brin_desummarize_range('item_brin', 0)",
  "DELETE FROM item WHERE id BETWEEN 1000 AND 5500",
  "VACUUM (FREEZE, ANALYZE) item",
  "INSERT INTO wide SELECT g, repeat('w', 9000 + g) FROM generate_series(1, 40) g",
  "SELECT nextval('ticket') FROM generate_series(1, 100)",
  "ALTER SEQUENCE ticket RESTART WITH 7",
  "CREATE TABLE copied AS SELECT * FROM item",
  "CREATE INDEX ON copied USING spgist (place)",
  "CREATE INDEX ON copied USING gist (place)",
  "CREATE INDEX ON copied USING gin (tags)",
  "CLUSTER item USING item_pkey",
  "VACUUM FULL pg_class",
  "REINDEX TABLE item",
  "TRUNCATE copied, passing",
  "DROP TABLE copied",
];

const TRANSACTIONS = [
  // Subtransactions: their top-level transaction is in the WAL; some of them abort.
  "BEGIN",
  "INSERT INTO wide VALUES (100, 'top')",
  "SAVEPOINT a",
  "INSERT INTO wide VALUES (101, 'a')",
  "SAVEPOINT b",
  "UPDATE wide SET payload = 'b' WHERE id = 101",
  "ROLLBACK TO b",
  "DELETE FROM wide WHERE id = 100",
  "RELEASE a",
  "COMMIT",
  // More subtransactions than a server remembers without being told (XLOG_XACT_ASSIGNMENT), and than one page of the
  // commit log holds.
  `DO $$ BEGIN FOR i IN 1..33000 LOOP
     BEGIN INSERT INTO wide VALUES (i, ''); IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
     EXCEPTION WHEN division_by_zero THEN NULL; END;
   END LOOP; END $$`,
  "BEGIN",
  "INSERT INTO wide VALUES (200, 'rolled back')",
  "CREATE TABLE never (id int)",
  "ROLLBACK",
  "BEGIN",
  "INSERT INTO wide VALUES (201, 'prepared')",
  "SAVEPOINT s",
  "INSERT INTO wide VALUES (202, 'prepared')",
  "PREPARE TRANSACTION 'kept'",
  "BEGIN",
  "INSERT INTO wide VALUES (203, 'prepared')",
  "PREPARE TRANSACTION 'dropped'",
  "COMMIT PREPARED 'kept'",
  "ROLLBACK PREPARED 'dropped'",
  "BEGIN ISOLATION LEVEL SERIALIZABLE",
  "LOCK TABLE item IN ACCESS EXCLUSIVE MODE",
  "UPDATE item SET name = 'locked' WHERE id = 1",
  "COMMIT",
  // Origins.
  "SELECT pg_replication_origin_create('elsewhere')",
  "SELECT pg_replication_origin_session_setup('elsewhere')",
  "BEGIN",
  "SELECT pg_replication_origin_xact_setup('0/1234', now())",
  "INSERT INTO wide VALUES (300, 'from elsewhere')",
  "COMMIT",
  "SELECT pg_replication_origin_session_reset()",
  "SELECT pg_replication_origin_advance('elsewhere', '0/5678')",
  "SELECT pg_replication_origin_drop('elsewhere')",
  "SELECT pg_logical_emit_message(true, 'short', 'message')",
  "SELECT pg_logical_emit_message(false, 'long', repeat('m', 1500000))",
  "SELECT pg_create_restore_point('here')",
];

const OBJECTS = [
  "CREATE DATABASE other",
  "ALTER DATABASE other CONNECTION LIMIT 3",
  "SET allow_in_place_tablespaces = on",
  "CREATE TABLESPACE apart LOCATION ''",
  "CREATE TABLE elsewhere (id int) TABLESPACE apart",
  "INSERT INTO elsewhere SELECT generate_series(1, 100)",
  "DROP TABLE elsewhere",
  "DROP TABLESPACE apart",
  "DROP DATABASE other",
  "SELECT pg_switch_wal()",
];

/** Every way of `wal_compression` that the server was built with, the ones without compression too. */
async function compressions(sql: postgres.Sql): Promise<readonly string[]> {
  const [row] = await sql.unsafe("SELECT enumvals FROM pg_settings WHERE name = 'wal_compression'");
  const values = row?.["enumvals"] as readonly string[] | string | null | undefined;
  if (values === null || values === undefined) return ["off", "on"]; // a boolean up to 14
  const texts = typeof values === "string" ? values.replace(/[{}]/g, "").split(",") : values;
  return texts.filter((value) => ["off", "pglz", "lz4", "zstd"].includes(value));
}

/** Makes the server write records of nearly every kind, full-page images with every `wal_compression` among them. */
export async function writeEveryRecord(cluster: Cluster): Promise<void> {
  const sql = cluster.connect();
  const other = cluster.connect();
  try {
    const run = async (statements: readonly string[]) => {
      for (const statement of statements) await sql.unsafe(statement).simple();
    };
    await run([...TABLES, ...CHANGES, ...TRANSACTIONS, ...OBJECTS]);
    await writeMultiXacts(sql, other);
    await run([
      "CREATE EXTENSION bloom",
      "CREATE INDEX item_bloom ON item USING bloom (id, name)",
      "INSERT INTO item SELECT g, 'bloom' FROM generate_series(20001, 20200) g",
    ]);
    await run([ // images beside what a record does anyway, for whoever checks it
      "SET wal_consistency_checking = 'all'",
      "INSERT INTO item SELECT g, 'checked' FROM generate_series(20301, 20330) g",
      "UPDATE item SET name = 'checked too' WHERE id > 20310",
      "VACUUM item",
      "RESET wal_consistency_checking",
    ]);
    for (const compression of await compressions(sql)) {
      await run([
        `SET wal_compression = ${compression}`,
        "CHECKPOINT",
        "UPDATE item SET name = name || 'c' WHERE id % 11 = 0",
        "DELETE FROM item WHERE id % 13 = 0",
        "INSERT INTO wide SELECT g, repeat(md5(g::text), 40) FROM generate_series(1, 300) g",
        "CREATE INDEX compressed ON wide (id, left(payload, 500))",
        "DROP INDEX compressed",
        "VACUUM item",
      ]);
    }
  } finally {
    await sql.end({ timeout: 5 });
    await other.end({ timeout: 5 });
  }
}

/** Rows locked by two transactions at once, some of them by subtransactions. */
async function writeMultiXacts(one: postgres.Sql, two: postgres.Sql): Promise<void> {
  await one.unsafe("BEGIN; SELECT * FROM item WHERE id < 50 FOR SHARE").simple();
  await two.unsafe("BEGIN; SELECT * FROM item WHERE id < 50 FOR SHARE").simple();
  await two.unsafe("SAVEPOINT s; SELECT * FROM item WHERE id < 9 FOR KEY SHARE").simple();
  await two.unsafe("COMMIT").simple();
  await one.unsafe("UPDATE item SET day = day + 1 WHERE id < 5; COMMIT").simple();
  await one.unsafe("VACUUM FREEZE item").simple();
}
