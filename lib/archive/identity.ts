import { crc32c } from "../wal/crc32c.ts";
import { type SegmentSize, segmentSize } from "../wal/segment.ts";

/** The format version that this program writes, and the newest that it reads. */
export const ARCHIVE_FORMAT = 1;

/** Which cluster an archive belongs to; fixed at the first use. */
export interface ArchiveIdentity {
  /** Unsigned 64 bits, as `pg_control_system()` and IDENTIFY_SYSTEM tell it. */
  readonly systemIdentifier: bigint;
  readonly segmentSize: SegmentSize;
}

function checksumOf(fields: Readonly<Record<string, unknown>>): string {
  return crc32c(new TextEncoder().encode(JSON.stringify(fields))).toString(16).padStart(8, "0");
}

function fieldsOf(identity: ArchiveIdentity) {
  return {
    walvault: "archive",
    format: ARCHIVE_FORMAT,
    // As text: JSON numbers lose what is above 2^53.
    systemIdentifier: identity.systemIdentifier.toString(),
    segmentBytes: Number(identity.segmentSize),
  };
}

/** The content of `archive.json`: one JSON object, with the CRC-32C of its other fields. */
export function encodeIdentity(identity: ArchiveIdentity): Uint8Array {
  const fields = fieldsOf(identity);
  const text = JSON.stringify({ ...fields, checksum: checksumOf(fields) }, undefined, 2);
  return new TextEncoder().encode(text + "\n");
}

/**
 * Reads the content of `archive.json`.
 *
 * @throws {SyntaxError} when it is not such a file, is damaged, or is of a newer format.
 */
export function decodeIdentity(bytes: Uint8Array): ArchiveIdentity {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new SyntaxError("Cannot read archive.json: it is no JSON text", { cause });
  }
  if (typeof value !== "object" || value === null) {
    throw new SyntaxError("Cannot read archive.json: it holds no object");
  }
  const field = value as Readonly<Record<string, unknown>>;
  if (field["walvault"] !== "archive") {
    throw new SyntaxError('Cannot read archive.json: it does not say "walvault": "archive"');
  }
  if (field["format"] !== ARCHIVE_FORMAT) {
    throw new SyntaxError(
      `Cannot read archive.json: format ${JSON.stringify(field["format"])}, want ${ARCHIVE_FORMAT}`,
    );
  }
  const { systemIdentifier, segmentBytes } = field;
  if (typeof systemIdentifier !== "string" || !/^[0-9]{1,20}$/.test(systemIdentifier)) {
    throw new SyntaxError("Cannot read archive.json: systemIdentifier is no unsigned number in quotes");
  }
  if (typeof segmentBytes !== "number") {
    throw new SyntaxError("Cannot read archive.json: segmentBytes is no number");
  }
  const identity = { systemIdentifier: BigInt(systemIdentifier), segmentSize: readSegmentSize(segmentBytes) };
  const want = checksumOf(fieldsOf(identity));
  if (field["checksum"] !== want) {
    throw new SyntaxError(
      `Cannot read archive.json: checksum ${
        JSON.stringify(field["checksum"])
      }, want "${want}"; it was changed by hand or damaged`,
    );
  }
  return identity;
}

function readSegmentSize(bytes: number): SegmentSize {
  try {
    return segmentSize(bytes);
  } catch (cause) {
    throw new SyntaxError(`Cannot read archive.json: ${(cause as Error).message}`, { cause });
  }
}
