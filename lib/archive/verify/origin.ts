import { parseSegmentName, type SegmentSize, segmentSize } from "../../wal/segment.ts";
import { FORMAT_OF_FORM } from "../compression_format.ts";
import type { Disk, NamedEntry } from "../disk.ts";
import { readWhole } from "../durable.ts";
import { type ArchiveIdentity, decodeIdentity } from "../identity.ts";
import { IDENTITY_FILE } from "../layout.ts";
import { readFirstPage } from "../plain_first_page.ts";
import type { Finding } from "./finding.ts";

const MAXIMUM_IDENTITY_BYTES = 4096;
/** So many files are asked whose they are, from all over the directory: one that is damaged must not decide. */
const WITNESSES = 9;
const SEGMENT_FILE = /^([0-9A-F]{24})(\.gz|\.lz4|\.zst)?(\.partial)?$/;

/** Which cluster the WAL in a directory is of. */
export interface Origin {
  readonly systemIdentifier: bigint;
  readonly segmentSize: SegmentSize;
}

/** Whose WAL it is, by `archive.json` or by what most files say; `undefined` when nothing tells. */
export async function readOrigin(
  disk: Disk,
  root: readonly NamedEntry[],
): Promise<{ readonly origin: Origin | undefined; readonly findings: readonly Finding[] }> {
  const own = root.some(({ name }) => name === IDENTITY_FILE) ? await readIdentity(disk) : undefined;
  if (own !== undefined && "identity" in own) return { origin: own.identity, findings: [] };
  return { origin: await majority(disk, root), findings: own === undefined ? [] : [own.finding] };
}

async function readIdentity(
  disk: Disk,
): Promise<{ readonly identity: ArchiveIdentity } | { readonly finding: Finding }> {
  const damaged = (problem: string) => ({
    finding: { kind: "identity", path: IDENTITY_FILE, problem } as const,
  });
  try {
    const bytes = await readWhole(disk, IDENTITY_FILE, MAXIMUM_IDENTITY_BYTES);
    return bytes === undefined ? damaged("it is gone") : { identity: decodeIdentity(bytes) };
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
    return damaged(error.message.replace(/^Cannot read archive\.json: /, ""));
  }
}

async function majority(disk: Disk, root: readonly NamedEntry[]): Promise<Origin | undefined> {
  const files = root.filter(({ name, kind }) => kind === "file" && SEGMENT_FILE.test(name))
    .toSorted((a, b) => a.name < b.name ? -1 : 1);
  const votes = new Map<string, { readonly origin: Origin; count: number }>();
  for (const index of spread(files.length)) {
    const origin = await originOf(disk, files[index]!);
    if (origin === undefined) continue;
    const key = `${origin.systemIdentifier} ${origin.segmentSize}`;
    const vote = votes.get(key) ?? { origin, count: 0 };
    vote.count++;
    votes.set(key, vote);
  }
  return [...votes.values()].toSorted((a, b) => b.count - a.count)[0]?.origin;
}

/** Places from the first to the last, each once. */
function spread(count: number): readonly number[] {
  const all = Array.from({ length: WITNESSES }, (_, i) => Math.round(i * (count - 1) / (WITNESSES - 1)));
  return count === 0 ? [] : [...new Set(all)];
}

async function originOf(disk: Disk, entry: NamedEntry): Promise<Origin | undefined> {
  const [, segment = "", form] = SEGMENT_FILE.exec(entry.name) ?? [];
  const format = form === undefined ? undefined : FORMAT_OF_FORM[form as keyof typeof FORMAT_OF_FORM];
  const first = await readFirstPage(disk, { entry, format });
  if (first.kind !== "header") return undefined;
  const { systemIdentifier, segmentBytes } = first.header;
  if (systemIdentifier === undefined || segmentBytes === undefined) return undefined;
  try {
    const size = segmentSize(segmentBytes);
    return parseSegmentName(segment, size) === undefined
      ? undefined
      : { systemIdentifier, segmentSize: size };
  } catch {
    // No segment has this size: another file tells.
    return undefined;
  }
}
