/** Runs `find` in this process, on archives made of bytes. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { find } from "../../lib/commands/find.ts";
import { findCommand, type FindCommandOptions } from "../../lib/commands/find_options.ts";
import { FIRST, nameOf, Scene } from "../restore/restore_scene.ts";
import { filler, NOON, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB, type PlacedRecord, type RecordPlan } from "../wal/wal_builder.ts";

/** What a run of the command said, with `--json`. */
export interface Told {
  readonly found: boolean;
  readonly where?: string;
  readonly stop?: { readonly kind: string; readonly lsn: string; readonly xid?: number };
  readonly backup?: { readonly fromLsn: string; readonly beforeLsn: string };
  readonly nearest?: { readonly xid: number };
  readonly recovery?: Readonly<Record<string, string>>;
  readonly notes: readonly { readonly kind: string; readonly text: string }[];
}

/** Runs it with these words of the command line. */
export async function tellFind(archive: string, ...words: readonly string[]): Promise<Told> {
  return JSON.parse(await findOutput(archive, ...words, "--json")) as Told;
}

/** As `tellFind`: what it writes. */
export async function findOutput(archive: string, ...words: readonly string[]): Promise<string> {
  let stdout = "";
  let stderr = "";
  let options: FindCommandOptions = {};
  const command = findCommand((parsed) => {
    options = parsed;
    return Promise.resolve();
  });
  await command.parseAsync([`--archive=${archive}`, ...words], { from: "user" });
  await find(options, {
    stdout: { isTerminal: false, write: (text) => void (stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (stderr += text) },
    env: {},
    signal: new AbortController().signal,
  });
  if (stderr !== "") throw new Error(stderr);
  return stdout;
}

/** Records of some segments, a commit before every ten that say nothing: transaction 1000 first, a second apart. */
export function commits(
  options: { readonly segments?: number; readonly extra?: readonly RecordPlan[] } = {},
): {
  readonly segments: readonly Uint8Array[];
  readonly records: readonly (PlacedRecord & { readonly xid: number | undefined })[];
} {
  const { segments: count = 4, extra = [] } = options;
  const plans: RecordPlan[] = [...extra];
  for (let i = 0; i * 50_000 < (count - 0.5) * MIB; i++) {
    plans.push(transactionEnd({ xid: 1000 + i, us: NOON + BigInt(i) * 1_000_000n }));
    for (let n = 0; n < 10; n++) plans.push(filler(5000));
  }
  const { segments, records } = buildWal({
    startLsn: BigInt(FIRST * MIB),
    segmentBytes: MIB,
    records: plans,
  });
  return {
    segments,
    records: records.map((record, i) => {
      const { resourceManager, xid } = plans[i]!;
      return { ...record, xid: resourceManager === 1 ? xid : undefined };
    }),
  };
}

/** An index of the archive; `undefined` where there is none. */
export function indexBytes(scene: Scene, number: number): string | undefined {
  const path = join(scene.archive, "index", `${nameOf(number)}.idx`);
  return existsSync(path) ? readFileSync(path, "hex") : undefined;
}
