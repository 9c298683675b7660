import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { DamagedFileError, decompress, FORMAT_OF_FORM } from "../../lib/archive/compression.ts";
import { memoryFile } from "../archive/memory_file.ts";
import { startCluster } from "./cluster.ts";
import { findProgram, findServerPrograms } from "./servers.ts";

/** The first one that compresses with lz4 too. */
const MAJOR = 15;
const original = findProgram(findServerPrograms(MAJOR), "pg_receivewal");
const MIB = 1024 * 1024;

async function read(file: Uint8Array, form: ".gz" | ".lz4"): Promise<Uint8Array> {
  const content = new Uint8Array(MIB);
  const source = { format: FORMAT_OF_FORM[form], label: form, wantBytes: MIB };
  await decompress(memoryFile(file), source, (bytes, position) => {
    content.set(bytes, position);
    return "more";
  });
  return content;
}

test("decompress() reads what pg_receivewal compresses, and finds damage in it", {
  skip: original === undefined ? "PostgreSQL 15 came without pg_receivewal" : false,
  timeout: 300_000,
}, async () => {
  await using primary = await startCluster({
    major: MAJOR,
    initdb: ["--wal-segsize=1"],
    settings: { wal_keep_size: "1GB" },
  });
  await primary.sql(`SELECT pg_switch_wal();
    CREATE TABLE load AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 30000) g;
    CHECKPOINT; UPDATE load SET text = text || 'x' WHERE id % 7 = 0; SELECT pg_switch_wal()`);
  const endLsn = await primary.value("SELECT pg_current_wal_lsn()");
  // It ends only when it has more than that.
  await primary.sql("DROP TABLE load");
  for (
    const [option, form] of [["gzip:1", ".gz"], ["gzip:9", ".gz"], ["lz4", ".lz4"], [
      "lz4:9",
      ".lz4",
    ]] as const
  ) {
    const directory = fs.mkdtempSync(join(primary.directory, "received-"));
    const start = primary.walFiles()[0] ?? "";
    // An empty directory begins at the server's end: with a first file there it goes on from that one.
    fs.copyFileSync(join(primary.dataDirectory, "pg_wal", start), join(directory, start));
    const run = spawnSync(original ?? "", [
      `--directory=${directory}`,
      `--dbname=${primary.conninfo({})}`,
      `--compress=${option}`,
      `--endpos=${endLsn}`,
      "--no-loop",
      "--synchronous",
    ], { encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    const names = fs.readdirSync(directory).filter((name) => name.endsWith(form)).sort();
    assert.ok(names.length > 5, run.stderr);
    for (const name of names) {
      const file = fs.readFileSync(join(directory, name));
      const segment = fs.readFileSync(join(primary.dataDirectory, "pg_wal", name.slice(0, 24)));
      assert.ok(Buffer.compare(await read(file, form), segment) === 0, name);
      for (let step = 1; step <= 5; step++) {
        const at = Math.floor(file.length * step / 6);
        await assert.rejects(read(file.subarray(0, at), form), DamagedFileError);
        const other = Buffer.from(file);
        other[at]! ^= 1 << (step & 7);
        try {
          assert.ok(Buffer.compare(await read(other, form), segment) === 0, `${name}, byte ${at}`);
        } catch (error) {
          assert.ok(error instanceof DamagedFileError, String(error));
        }
      }
    }
    fs.rmSync(directory, { recursive: true });
  }
});
