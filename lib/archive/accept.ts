import { WrongClusterError } from "../wal/errors.ts";
import { cutHistoryProblem, parseHistory } from "../wal/history.ts";
import { parseLsn } from "../wal/lsn.ts";
import { segmentOffset } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import {
  type Acceptance,
  type Accepted,
  type AcceptOptions,
  type BroughtFile,
  BroughtFileError,
} from "./acceptance.ts";
import { allEnded } from "./all_ended.ts";
import { acceptSegment } from "./accept_segment.ts";
import { acceptText, readBroughtText } from "./accept_text.ts";
import type { Archive } from "./archive.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { type BroughtName, parseBroughtName, pushedPath } from "./layout.ts";

/**
 * Takes one file into an open archive, beside whoever else writes there; resolves when that is durable.
 *
 * Nothing is written before the file is known to be of this archive's cluster. It appears whole or not at all, whatever
 * stops it; nothing is ever overwritten.
 * @throws {BroughtFileError} @throws {WrongClusterError} @throws {SyntaxError} the file does not belong here.
 * @throws {ArchiveConflictError} the archive has other bytes in its place; both are kept.
 */
export async function acceptFile(
  archive: Archive,
  brought: BroughtFile,
  options: AcceptOptions,
): Promise<Accepted> {
  const { identity } = archive;
  if (identity === undefined) throw new Error("Cannot archive a file: the archive is not made yet");
  const name = parseBroughtName(brought.name);
  if (name === undefined) {
    throw new BroughtFileError(
      `Cannot archive "${brought.name}": by its name it is no segment, history or backup label`,
      "A server hands over names like 00000001000000000000000A, 00000002.history and " +
        "00000001000000000000000A.00000028.backup",
    );
  }
  refuseOtherCluster(brought.name, { name, identity, systemIdentifier: options.systemIdentifier });
  const temporary = pushedPath(brought.name, options.suffix);
  const tidying: Promise<void>[] = [];
  try {
    const accepted = await acceptNamed({ archive, identity, brought, options, temporary, tidying }, name);
    // Its disk may have been taken away while we worked: then all of that went into what lies below the mount point.
    await archive.confirm();
    return accepted;
  } finally {
    await allEnded(tidying);
  }
}

async function acceptNamed(acceptance: Acceptance, name: BroughtName): Promise<Accepted> {
  const { identity, brought } = acceptance;
  if (name.kind === "segment") return await acceptSegment(acceptance, name);
  const bytes = await readBroughtText(acceptance);
  if (name.kind === "history") checkHistory(name.timeline, bytes);
  else checkLabel(brought.name, { name, identity, bytes });
  return await acceptText(acceptance, bytes);
}

function refuseOtherCluster(file: string, { name, identity, systemIdentifier }: {
  readonly name: BroughtName;
  readonly identity: ArchiveIdentity;
  readonly systemIdentifier: bigint | undefined;
}): void {
  if (systemIdentifier === identity.systemIdentifier) return;
  if (systemIdentifier !== undefined) {
    throw new WrongClusterError(
      `Cannot archive ${file}: this data directory is of the cluster with system identifier ${systemIdentifier}, ` +
        `the archive of ${identity.systemIdentifier}; give each cluster an archive of its own`,
    );
  }
  // A segment says itself whose it is.
  if (name.kind === "segment") return;
  throw new BroughtFileError(
    `Cannot archive ${file}: nothing tells whose it is, as there is no global/pg_control here`,
    "Run it in the data directory of its server, as the server itself does with its archive_command",
  );
}

/** What is archived now is what a restore takes the way from. */
function checkHistory(timeline: TimelineId, bytes: Uint8Array): void {
  const problem = cutHistoryProblem(parseHistory(timeline, bytes), bytes);
  if (problem === undefined) return;
  throw new SyntaxError(`Cannot parse history of timeline ${timeline}: ${problem}`);
}

/** A backup label says where the backup began, as its name does. */
function checkLabel(file: string, { name, identity, bytes }: {
  readonly name: BroughtName & { readonly kind: "backup label" };
  readonly identity: ArchiveIdentity;
  readonly bytes: Uint8Array;
}): void {
  const text = new TextDecoder().decode(bytes);
  const line = /^START WAL LOCATION: ([0-9A-F]{1,8}\/[0-9A-F]{1,8}) \(file ([0-9A-F]{24})\)$/m.exec(text);
  const offset = line === null ? undefined : segmentOffset(parseLsn(line[1] ?? ""), identity.segmentSize);
  if (offset === name.offset && line?.[2] === name.segment) return;
  throw new BroughtFileError(
    `Cannot archive ${file}: it does not say where the backup began, want "START WAL LOCATION: … (file ${name.segment})"`,
  );
}
