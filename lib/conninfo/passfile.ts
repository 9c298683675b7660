import { type ConninfoFiles, isSpecialFile } from "./conninfo_files.ts";

interface PassfileQuery {
  /** Any of these names may stand in the first field. */
  readonly hosts: readonly string[];
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

/**
 * The password in a passfile's first line that matches; `undefined` when none does or that one's is empty.
 *
 * A line is `host:port:database:user:password`; `*` alone matches anything; `\` makes ":" and "\" plain.
 * @see passwordFromFile(), src/interfaces/libpq/fe-connect.c
 */
export function findPassword(text: string, query: PassfileQuery): string | undefined {
  const { hosts, port, database, user } = query;
  for (const rawLine of text.split("\n")) {
    const line = rawLine.replace(/\r+$/, "");
    if (line.startsWith("#")) continue;
    const rest = afterFields(line, [hosts, [String(port)], [database], [user]]);
    if (rest !== undefined) return unescapePassword(rest) || undefined;
  }
  return undefined;
}

/** What follows when each field holds one of the texts wanted for it. */
function afterFields(line: string, wanted: readonly (readonly string[])[]): string | undefined {
  let rest: string | undefined = line;
  for (const texts of wanted) {
    const before: string = rest;
    rest = texts.map((text) => afterField(before, text)).find((after) => after !== undefined);
    if (rest === undefined) return undefined;
  }
  return rest;
}

/** What follows the field and its colon when the field is `*` or the text; as in libpq its colons need no escape. */
function afterField(line: string, text: string): string | undefined {
  if (line.startsWith("*:")) return line.slice(2);
  let at = 0;
  for (const character of text.split("")) {
    if (line[at] === "\\") at++;
    if (line[at] !== character) return undefined;
    at++;
  }
  return line[at] === ":" ? line.slice(at + 1) : undefined;
}

/** Up to a bare colon; a backslash at the very end is plain. */
function unescapePassword(field: string): string {
  let password = "";
  for (let at = 0; at < field.length && field[at] !== ":"; at++) {
    if (field[at] === "\\" && at + 1 < field.length) at++;
    password += field[at];
  }
  return password;
}

/** A passfile's text if it may be used, and what to warn about if it may not. */
export interface PassfileContent {
  readonly text: string | undefined;
  readonly warning: string | undefined;
}

/** Reads a passfile, unless it is absent, no plain file, or open to group or world: libpq ignores it then. */
export function readPassfile(path: string, files: ConninfoFiles): PassfileContent {
  const mode = files.mode(path);
  if (mode !== undefined && isSpecialFile(mode)) {
    return { text: undefined, warning: `password file "${path}" is not a plain file` };
  }
  if (mode !== undefined && (mode & 0o077) !== 0) {
    const advice = "permissions should be u=rw (0600) or less";
    return { text: undefined, warning: `password file "${path}" has group or world access; ${advice}` };
  }
  return { text: files.readText(path), warning: undefined };
}
