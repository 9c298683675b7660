import { type Keyword, KEYWORD_NAMES } from "./keywords.ts";

/** What other clients call our keywords. */
const OTHER_NAMES: Readonly<Record<string, Keyword>> = {
  database: "dbname",
  db: "dbname",
  hostname: "host",
  server: "host",
  username: "user",
  pass: "password",
  passwd: "password",
  pwd: "password",
  pgpassfile: "passfile",
  timeout: "connect_timeout",
  ssl: "sslmode",
  app: "application_name",
  encoding: "client_encoding",
  sslrootca: "sslrootcert",
  sslca: "sslrootcert",
};

/** No keyword is longer; a longer name is not compared. */
const LONGEST_NAME = 40;

/** The keyword that was probably meant by an unknown name. */
export function suggestKeyword(name: string): Keyword | undefined {
  if (name === "" || name.length > LONGEST_NAME) return undefined;
  const plain = name.toLowerCase().replaceAll(/[-_. ]/g, "");
  if (Object.hasOwn(OTHER_NAMES, plain)) return OTHER_NAMES[plain];
  let best: Keyword | undefined;
  let bestDistance = plain.length <= 4 ? 2 : 3;
  for (const keyword of KEYWORD_NAMES) {
    const distance = editDistance(plain, keyword.replaceAll("_", ""));
    if (distance < bestDistance) {
      best = keyword;
      bestDistance = distance;
    }
  }
  return best;
}

/** Insertions, deletions, replacements and swaps of neighbours between two short words. */
function editDistance(left: string, right: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (let row = 1; row <= left.length; row++) {
    const current = [row];
    for (let column = 1; column <= right.length; column++) {
      const same = left[row - 1] === right[column - 1];
      let cost = Math.min(
        last[column]! + 1,
        current[column - 1]! + 1,
        last[column - 1]! + (same ? 0 : 1),
      );
      const swapped = row > 1 && column > 1 && left[row - 1] === right[column - 2] &&
        left[row - 2] === right[column - 1];
      if (swapped) cost = Math.min(cost, beforeLast[column - 2]! + 1);
      current.push(cost);
    }
    beforeLast = last;
    last = current;
  }
  return last[right.length]!;
}
