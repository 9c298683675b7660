import { type ConninfoEntry, conninfoEntry, refuseNul } from "./conninfo_entry.ts";
import { ConninfoError } from "./conninfo_error.ts";
import { isSecretKeyword } from "./keywords.ts";

const PREFIX = /^postgres(?:ql)?:\/\//;

/** Whether libpq would take the text for a URI; the scheme must be in lower case. */
export function isConnectionUri(text: string): boolean {
  return PREFIX.test(text);
}

/**
 * The settings of `postgresql://[user[:password]@][host][:port][,…][/dbname][?keyword=value[&…]]`.
 *
 * As libpq reads it, with two refusals more: a bare "@" in a host or database name. libpq takes
 * `u:a@b@host` for the host `b@host`, and `u:a/b@host` for the host `u`: pieces of a password would become
 * names, and names get printed.
 * @throws {ConninfoError} which tells position and kind, never a value.
 * @see conninfo_uri_parse_options(), src/interfaces/libpq/fe-connect.c
 */
export function parseConnectionUri(text: string): readonly ConninfoEntry[] {
  refuseNul(text);
  const prefix = PREFIX.exec(text);
  if (prefix === null) throw problem(`no postgresql:// at its begin`);
  const entries: ConninfoEntry[] = [];
  const add = (name: string, start: number, end: number) => {
    if (start === end) return;
    const value = decodePercent(text, start, end);
    entries.push(conninfoEntry({ name, value, nameStart: start, start, end, nameIsSafe: true }));
  };

  let at = prefix[0].length;
  const credentialsEnd = at + text.slice(at).search(/[@/]|$/);
  if (text[credentialsEnd] === "@") {
    const colon = text.indexOf(":", at);
    const userEnd = colon >= 0 && colon < credentialsEnd ? colon : credentialsEnd;
    add("user", at, userEnd);
    if (userEnd < credentialsEnd) add("password", userEnd + 1, credentialsEnd);
    at = credentialsEnd + 1;
  }

  const servers = parseServers(text, at);
  refuseBareAt(text, at, servers.end);
  const span = { nameStart: at, start: at, end: servers.end, nameIsSafe: true };
  if (servers.hosts !== "") entries.push(conninfoEntry({ name: "host", value: servers.hosts, ...span }));
  if (servers.ports !== "") entries.push(conninfoEntry({ name: "port", value: servers.ports, ...span }));

  at = servers.end;
  if (text[at] === "/") {
    const end = endBefore(text, at, "?");
    refuseBareAt(text, at, end);
    add("dbname", at + 1, end);
    at = end;
  }
  if (text[at] === "?") entries.push(...parseParameters(text, at + 1));
  return entries;
}

interface Servers {
  /** As the `host` keyword lists them; "" when none was given. */
  readonly hosts: string;
  /** As the `port` keyword lists them: as many commas as `hosts` has. */
  readonly ports: string;
  readonly end: number;
}

function parseServers(text: string, start: number): Servers {
  let hosts = "";
  let ports = "";
  for (let at = start;; at++) {
    let hostStart = at;
    if (text[at] === "[") {
      hostStart = at + 1;
      at = text.indexOf("]", hostStart);
      if (at < 0) throw problem(`the "[" at character ${hostStart} is never closed`);
      if (at === hostStart) throw problem(`no IPv6 address in the brackets at character ${hostStart}`);
      hosts += decodePercent(text, hostStart, at);
      at++;
      if (at < text.length && !":/?,".includes(text[at]!)) {
        throw problem(`unexpected character at character ${at + 1}, want ":" or "/"`);
      }
    } else {
      at = endBefore(text, at, ":/?,");
      hosts += decodePercent(text, hostStart, at);
    }
    if (text[at] === ":") {
      const portStart = at + 1;
      at = endBefore(text, portStart, "/?,");
      ports += decodePercent(text, portStart, at);
    }
    if (text[at] !== ",") return { hosts, ports, end: at };
    hosts += ",";
    ports += ",";
  }
}

function parseParameters(text: string, start: number): ConninfoEntry[] {
  const entries: ConninfoEntry[] = [];
  let secretSeen = false;
  for (let at = start; at < text.length;) {
    const end = endBefore(text, at, "&");
    const equals = endBefore(text, at, "=&");
    if (equals === end) throw problem(`missing "=" in the parameter at character ${at + 1}`);
    if (text.slice(equals + 1, end).includes("=")) {
      throw problem(`extra "=" in the parameter at character ${at + 1}`, `Write "=" in a value as %3D`);
    }
    const name = decodePercent(text, at, equals);
    const value = decodePercent(text, equals + 1, end);
    const jdbc = name === "ssl" && value === "true";
    const entry = conninfoEntry({
      name: jdbc ? "sslmode" : name,
      value: jdbc ? "require" : value,
      nameStart: at,
      start: equals + 1,
      end,
      // A password with "?" or "&" in it spills over into the parameters; "@" further on gives it away.
      nameIsSafe: !secretSeen && !text.includes("@", at),
    });
    entries.push(entry);
    secretSeen ||= isSecretKeyword(entry.keyword);
    at = end + 1;
  }
  return entries;
}

function endBefore(text: string, start: number, stops: string): number {
  let at = start;
  while (at < text.length && !stops.includes(text[at]!)) at++;
  return at;
}

function refuseBareAt(text: string, start: number, end: number): void {
  const at = text.slice(start, end).indexOf("@");
  if (at < 0) return;
  throw problem(
    `unexpected "@" at character ${start + at + 1}`,
    `In a user name or password write "@" as %40, "/" as %2F and ":" as %3A`,
  );
}

/** The text with each `%XY` run read as UTF-8; "+" is no space. */
function decodePercent(text: string, start: number, end: number): string {
  return text.slice(start, end).replaceAll(/(?:%[0-9A-Fa-f]{2})+|%/g, (run: string, offset: number) => {
    const position = `at character ${start + offset + 1}`;
    if (run === "%") throw problem(`invalid percent-encoding ${position}`, `Write "%" as %25`);
    if (/%00/.test(run)) throw problem(`forbidden %00 ${position}`);
    try {
      return decodeURIComponent(run);
    } catch {
      // The cause would carry the text; the position is enough.
      throw problem(`percent-encoding that is not UTF-8 ${position}`);
    }
  });
}

function problem(what: string, hint?: string): ConninfoError {
  return new ConninfoError(`Cannot parse connection URI: ${what}`, hint);
}
