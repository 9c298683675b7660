/** A page of the documentation, as its examples. */
import * as fs from "node:fs";

/** One fenced block. */
export interface Example {
  /** The word behind the fence: `sh`, `ini`, `sql`, `text`. */
  readonly language: string;
  readonly text: string;
}

/** The examples of a page, by the heading of second rank that they stand below; headings without any are left out. */
export function examplesOf(path: string): ReadonlyMap<string, readonly Example[]> {
  const sections = new Map<string, Example[]>();
  let heading = "";
  let open: { readonly language: string; readonly lines: string[] } | undefined;
  for (const line of fs.readFileSync(path, "utf8").split("\n")) {
    const fence = /^```(.*)$/.exec(line);
    if (fence === null) {
      if (open !== undefined) open.lines.push(line);
      else if (line.startsWith("## ")) heading = line.slice(3);
    } else if (open === undefined) {
      open = { language: fence[1] ?? "", lines: [] };
    } else {
      const examples = sections.get(heading) ?? [];
      sections.set(heading, [...examples, { language: open.language, text: open.lines.join("\n") + "\n" }]);
      open = undefined;
    }
  }
  if (open !== undefined) throw new Error(`Cannot read "${path}": a block has no end`);
  return sections;
}
