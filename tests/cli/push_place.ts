import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { IDENTITY, NAMES, walOf } from "../archive/on_sim_disk.ts";
import { MIB } from "../wal/wal_builder.ts";

/** The name of the segment there. */
export const [SEGMENT = ""] = NAMES;

/** A data directory with one segment in its pg_wal, and an archive for it. */
export class PushPlace {
  readonly path = mkdtempSync(join(tmpdir(), "wv-usage-"));
  readonly archive = join(this.path, "archive");

  constructor() {
    for (const name of ["pg_wal", "global", "archive", "archive/inprogress"]) {
      mkdirSync(join(this.path, name));
    }
    writeFileSync(join(this.path, "pg_wal", SEGMENT), walOf({ bytes: MIB }));
    writeFileSync(join(this.archive, "archive.json"), encodeIdentity(IDENTITY));
    const control = new Uint8Array(8192);
    new DataView(control.buffer).setBigUint64(0, IDENTITY.systemIdentifier, true);
    writeFileSync(join(this.path, "global", "pg_control"), control);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
