/** The shapes of answers that docs/json.md describes, and what of an answer is not as it says. */
import * as fs from "node:fs";

/** One row of a table. */
interface Field {
  readonly type: string;
  readonly isAlwaysThere: boolean;
}

/** Holds the answers of one command against its table. */
export class Shape {
  readonly #seen = new Set<string>();

  constructor(private readonly fields: ReadonlyMap<string, Field>) {}

  /** What is not as the table says, one sentence for each; fields that are there count as seen. */
  problemsOf(answer: unknown): readonly string[] {
    return [...this.#objectProblems(answer, "")];
  }

  /** Fields of the table that no answer had. */
  get unseen(): readonly string[] {
    return [...this.fields.keys()].filter((path) => !this.#seen.has(path));
  }

  *#objectProblems(value: unknown, prefix: string): Iterable<string> {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      yield `${prefix || "the answer"} is ${JSON.stringify(value)}, want an object`;
      return;
    }
    for (const [name, content] of Object.entries(value)) yield* this.#fieldProblems(content, prefix + name);
    for (const [path, { isAlwaysThere }] of this.fields) {
      const name = path.startsWith(prefix) ? path.slice(prefix.length) : "";
      if (/^[A-Za-z]+$/.test(name) && isAlwaysThere && !(name in value)) yield `${path} is missing`;
    }
  }

  *#fieldProblems(value: unknown, path: string): Iterable<string> {
    const field = this.fields.get(path);
    if (field === undefined) {
      yield `${path} is not described`;
      return;
    }
    this.#seen.add(path);
    const type = field.type.replace(/ or null$/, "");
    if (value === null && type !== field.type) return;
    if (type === "object") yield* this.#objectProblems(value, `${path}.`);
    else if (type === "objects") {
      if (!Array.isArray(value)) yield `${path} is ${JSON.stringify(value)}, want a list`;
      else for (const each of value) yield* this.#objectProblems(each, `${path}[].`);
    } else if (!isOfType(value, type)) yield `${path} is ${JSON.stringify(value)}, want ${type}`;
  }
}

function isOfType(value: unknown, type: string): boolean {
  const choice = /^one of (.*)$/.exec(type)?.[1];
  if (choice !== undefined) {
    return choice.split(", ").map((each) => each.replaceAll("`", "")).includes(value as string);
  }
  switch (type) {
    case "lsn":
      return typeof value === "string" && /^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/.test(value);
    case "time":
      return typeof value === "string" && /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\+00$/.test(value);
    case "text":
      return typeof value === "string";
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "boolean":
      return typeof value === "boolean";
    case "texts":
      return Array.isArray(value) && value.every((each) => typeof each === "string");
    case "settings":
      return typeof value === "object" && value !== null && Object.keys(value).length > 0 &&
        Object.values(value).every((each) => typeof each === "string");
    default:
      throw new Error(`Cannot check "${type}": the page does not say what that is`);
  }
}

/** The tables of a page, by the headings above them. */
export function shapesOf(path: string): ReadonlyMap<string, Shape> {
  const tables = new Map<string, Map<string, Field>>();
  let heading = "";
  for (const line of fs.readFileSync(path, "utf8").split("\n")) {
    if (line.startsWith("## ")) heading = line.slice(3);
    const cells = line.split("|").map((cell) => cell.trim());
    const field = /^`(.+)`$/.exec(cells[1] ?? "")?.[1];
    if (field === undefined) continue;
    const table = tables.get(heading) ?? new Map<string, Field>();
    if (table.has(field)) throw new Error(`Cannot read "${path}": ${heading} has two fields ${field}`);
    tables.set(heading, table.set(field, { type: cells[2] ?? "", isAlwaysThere: cells[3] === "always" }));
  }
  return new Map([...tables].map(([name, fields]) => [name, new Shape(fields)]));
}
