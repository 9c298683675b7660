/** A compressed file that is cut off, damaged, or holds another number of bytes than it should. */
export class DamagedFileError extends Error {
  override readonly name = "DamagedFileError";
}
