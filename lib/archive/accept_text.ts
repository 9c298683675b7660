import { sameBytes } from "../wal/bytes.ts";
import { ArchiveConflictError } from "../wal/errors.ts";
import {
  type Acceptance,
  type Accepted,
  BroughtFileError,
  linkTemporary,
  surveyInProgress,
  withTemporary,
} from "./acceptance.ts";
import { keepConflict } from "./conflict.ts";
import { readWhole, withFile } from "./durable.ts";

/** Larger than any history and any backup label. */
export const MAXIMUM_TEXT_BYTES = 1 << 20;

/**
 * Takes a timeline history or a backup label into the archive.
 *
 * @throws {ArchiveConflictError} when the archive has another one under this name; both are kept.
 */
export async function acceptText(acceptance: Acceptance, bytes: Uint8Array): Promise<Accepted> {
  const { archive: { disk, modes }, brought: { name }, temporary } = acceptance;
  const sameAsOwn = async () => {
    const own = await readWhole(disk, name, MAXIMUM_TEXT_BYTES);
    return own === undefined ? undefined : sameBytes(own, bytes);
  };
  const settled = async (outcome: "archived" | "present"): Promise<Accepted> => {
    await disk.syncDirectory(".");
    return { outcome, path: name };
  };
  await surveyInProgress(acceptance);
  if (await sameAsOwn() === true) {
    // Whoever wrote it may not have come to sync it.
    await withFile(disk, name, (file) => file.sync());
    return await settled("present");
  }
  return await withTemporary(acceptance, async (file) => {
    await file.write(bytes, 0);
    await file.sync();
    if (await linkTemporary(acceptance, name)) return await settled("archived");
    // Somebody was first, since the look before.
    if (await sameAsOwn() === true) return await settled("present");
    const options = { modes, naming: { hardLinks: true } };
    const kept = await keepConflict(disk, { from: temporary, name }, options);
    throw new ArchiveConflictError(
      `Cannot archive ${name}: the archive has other bytes under this name ("${disk.root}/${name}"); nothing was ` +
        `overwritten, these are kept as "${disk.root}/${kept}"; find out which server belongs to this archive, and give ` +
        "the other one its own",
    );
  });
}

/** Reads the file that was brought, whole. */
export async function readBroughtText({ brought }: Pick<Acceptance, "brought">): Promise<Uint8Array> {
  const bytes = await readWhole(brought.disk, brought.name, MAXIMUM_TEXT_BYTES);
  if (bytes === undefined) throw new BroughtFileError(`Cannot archive ${brought.name}: it is not there`);
  return bytes;
}
