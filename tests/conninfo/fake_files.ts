import type { ConninfoFiles } from "../../lib/conninfo/conninfo_files.ts";
import { type ConnectionInput, resolveConnection } from "../../lib/conninfo/resolve_connection.ts";

export interface FakeFile {
  readonly text?: string;
  readonly mode?: number;
  readonly owner?: number;
}

/** Files in memory, and the paths whose text was asked for. */
export function fakeFiles(
  files: Readonly<Record<string, FakeFile>>,
): ConninfoFiles & { readonly read: string[] } {
  const read: string[] = [];
  return {
    read,
    readText(path) {
      read.push(path);
      return files[path] === undefined ? undefined : files[path].text ?? "";
    },
    mode: (path) => files[path] === undefined ? undefined : files[path].mode ?? 0o100600,
    exists: (path) => files[path] !== undefined,
    owner: (path) => files[path]?.owner,
  };
}

/** Resolves with a home in /home/u, the user "osuser" and nothing else given. */
export function resolve(
  conninfo: string | undefined,
  input: Partial<ConnectionInput> & { readonly has?: Readonly<Record<string, FakeFile>> } = {},
) {
  return resolveConnection({
    conninfo,
    env: {},
    files: fakeFiles(input.has ?? {}),
    homeDirectory: "/home/u",
    operatingSystemUser: "osuser",
    fallbackApplicationName: "walvault",
    ...input,
  });
}
