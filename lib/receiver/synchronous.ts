/** Who must confirm a commit, as `synchronous_standby_names` says it. */
export interface SynchronousStandbys {
  /** So many of the names must confirm. */
  readonly count: number;
  /** Without quotes; lower case where they were not quoted. `*` stands for any. */
  readonly names: readonly string[];
}

/**
 * Reads `synchronous_standby_names`: `a, b`, `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 2 (a, "B")`.
 *
 * `undefined` for the empty setting, and for what a future server may write there.
 * @see src/backend/replication/syncrep_gram.y (PostgreSQL 10 to 18)
 */
export function parseSynchronousStandbys(setting: string): SynchronousStandbys | undefined {
  const text = setting.trim();
  const head = /^(?:(?:FIRST|ANY)\s+)?([0-9]+)\s*\(/i.exec(text);
  if (head !== null && !text.endsWith(")")) return undefined;
  const names = parseNames(head === null ? text : text.slice(head[0].length, -1));
  return names === undefined ? undefined : { count: Number(head?.[1] ?? "1"), names };
}

/** One name and what follows it; the text comes from a server, so no part of it is looked at twice. */
const NAME = /\s*(?:"((?:[^"]|"")*)"|([^"(),\s]+))\s*(,|$)/y;

/** `undefined` when it is no list of names. */
function parseNames(list: string): readonly string[] | undefined {
  const names: string[] = [];
  NAME.lastIndex = 0;
  for (;;) {
    const match = NAME.exec(list);
    if (match === null) return undefined;
    const [, quoted, plain = "", separator] = match;
    names.push(quoted === undefined ? plain.toLowerCase() : quoted.replaceAll('""', '"'));
    if (separator === "") return names;
  }
}

/** What the operator should know when commits wait for this standby. */
export function synchronousWarnings(settings: {
  readonly standbyNames: string;
  /** `synchronous_commit`, as the replication connection sees it. */
  readonly commit: string;
  readonly applicationName: string;
}): readonly { readonly event: string; readonly hint: string }[] {
  const standbys = parseSynchronousStandbys(settings.standbyNames);
  const own = settings.applicationName.toLowerCase();
  if (standbys === undefined || !standbys.names.some((name) => name === "*" || name.toLowerCase() === own)) {
    return [];
  }
  const warnings: { event: string; hint: string }[] = [];
  if (settings.commit === "remote_apply") {
    warnings.push({
      event: "synchronous_commit is remote_apply",
      hint: "walvault replays nothing, so commits that wait for it wait for ever; use on or remote_write",
    });
  }
  if (!standbys.names.includes("*") && standbys.names.length <= standbys.count) {
    warnings.push({
      event: "only synchronous standby",
      hint: "commits wait whenever this receiver is not connected; add a second standby if they must not",
    });
  }
  return warnings;
}
