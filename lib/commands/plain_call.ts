import { type CommandCall, type CommandTable, formsOf } from "./command_table.ts";

/**
 * Reads a command line that has nothing special: each option whole, at most once, its value in the next word or behind
 * `=`, and as many operands as the command has.
 *
 * A server starts a command at every segment, and to load what can read any command line, explain it and tell what is
 * wrong with it takes longer than all else before the command's own work.
 *
 * @param words what stands behind the command's name
 * @returns `undefined` for every other command line, also for a wrong one
 */
export function plainCall(words: readonly string[], table: CommandTable): CommandCall | undefined {
  const options: Record<string, unknown> = {};
  for (const option of table.options) {
    const { long } = formsOf(option);
    if (option.fallback !== undefined) options[nameOf(long)] = option.fallback.value;
    if (isNegated(long)) options[nameOf(long)] = true;
  }
  const given = new Set<string>();
  const operands: string[] = [];
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    if (!word.startsWith("-")) {
      operands.push(word);
      continue;
    }
    const [, form, attached] = /^(--[a-z-]+|-[A-Za-z])(?:=(.*))?$/s.exec(word) ?? [];
    const option = table.options.find((each) => {
      const { short, long } = formsOf(each);
      return form === long || (form === short && attached === undefined);
    });
    if (form === undefined || option === undefined) return undefined;
    const { long, takesValue } = formsOf(option);
    if (given.has(long)) return undefined;
    given.add(long);
    if (!takesValue) {
      if (attached !== undefined) return undefined;
      options[nameOf(long)] = !isNegated(long);
      continue;
    }
    const text = attached ?? words[++at];
    if (text === undefined || text === "" || text.startsWith("-")) return undefined;
    if (option.choices !== undefined && !option.choices.includes(text)) return undefined;
    try {
      options[nameOf(long)] = option.parse === undefined ? text : option.parse(text);
    } catch {
      return undefined;
    }
  }
  const isWhole = operands.length === table.operands.length && operands.every((word) => word !== "");
  return isWhole ? { operands, options } : undefined;
}

function isNegated(long: string): boolean {
  return long.startsWith("--no-");
}

function nameOf(long: string): string {
  return long.replace(/^--(?:no-)?/, "").replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
