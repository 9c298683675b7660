import { type Acceptance, BroughtFileError, type DamagedForm } from "./acceptance.ts";
import { type BroughtSegment, compareBrought, type WrittenSegment } from "./brought_segment.ts";
import { keepConflict } from "./conflict.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { DiskFile } from "./disk.ts";
import { SEGMENT_FORMS } from "./layout.ts";
import type { PublishedComparison } from "./published.ts";
import { isWholeAndRight, proveSegmentFile } from "./segment_proof.ts";

/** A published form that can't be read. */
export interface FoundDamage {
  readonly path: string;
  readonly inode: number;
  readonly error: DamagedFileError;
}

/** What a segment's name stands for in the archive, beside a segment that should hold the same. */
export interface PublishedForms {
  /** Of the form that differs, or else of one that can be read. */
  readonly published: PublishedComparison | undefined;
  readonly damaged: readonly FoundDamage[];
}

/** As `compareBrought`; forms that can't be read are told, and the others looked for. */
export async function compareForms(
  found: Pick<BroughtSegment, "acceptance" | "segment">,
  file: DiskFile,
): Promise<PublishedForms> {
  try {
    return { published: await compareBrought(found, { file }), damaged: [] };
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
  }
  const { disk } = found.acceptance.archive;
  const damaged: FoundDamage[] = [];
  let published: PublishedComparison | undefined;
  for (const form of SEGMENT_FORMS) {
    const path = found.segment + form;
    const entry = await disk.entry(path);
    if (entry === undefined) continue;
    try {
      const comparison = await compareBrought(found, { file, forms: [form] });
      if (comparison?.difference !== undefined) return { published: comparison, damaged };
      published ??= comparison;
    } catch (error) {
      if (!(error instanceof DamagedFileError)) throw error;
      damaged.push({ path, inode: entry.inode, error });
    }
  }
  return { published, damaged };
}

/** Whether every record of a segment that was written holds, to its end. */
export async function isProven({ file, scan }: WrittenSegment): Promise<boolean> {
  return isWholeAndRight(await proveSegmentFile(file, scan));
}

/** Moves forms that can't be read out of the way, durably: they are no durable WAL, and their bytes are kept. */
export async function moveDamagedAside(
  { archive: { disk, modes }, brought }: Acceptance,
  damaged: readonly FoundDamage[],
): Promise<readonly DamagedForm[]> {
  const moved: DamagedForm[] = [];
  for (const { path, inode } of damaged) {
    // Another push may have done it, and somebody else have given the name to a good one.
    if ((await disk.entry(path))?.inode !== inode) {
      throw new BroughtFileError(
        `Cannot archive ${brought.name}: another one took "${path}" away meanwhile; the server will ask again`,
      );
    }
    const options = { modes, naming: { hardLinks: true } };
    moved.push({ path, keptPath: await keepConflict(disk, { from: path, name: path }, options) });
  }
  // Before a good one gets its name: a power cut that kept both would leave the damaged one beside it for ever.
  if (moved.length > 0) await disk.syncDirectory(".");
  return moved;
}
