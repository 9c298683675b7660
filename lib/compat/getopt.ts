/** An option that has a name of its own besides its letter. */
export interface LongOption {
  readonly name: string;
  /** What it is called when it is found; may be a word, where there is no letter for it. */
  readonly letter: string;
  readonly argument: "none" | "required";
}

/** The options of a program. */
export interface OptionTable {
  /** As getopt(3) takes it: each letter, with a colon behind it when it has an argument. */
  readonly letters: string;
  readonly long: readonly LongOption[];
}

/** What stands on the command line next. */
export type CommandLineItem =
  | { readonly kind: "option"; readonly letter: string; readonly argument: string }
  /** No such option, or not in this way; the text is glibc's, without the program's name. */
  | { readonly kind: "complaint"; readonly text: string };

/**
 * Takes a command line apart as glibc's getopt_long() does: options stand anywhere, letters in bunches, and a long name may
 * be cut short as long as it means one option only.
 *
 * Returns the words that belong to no option. An option without an argument has the argument "".
 */
export function* getopt(
  words: readonly string[],
  table: OptionTable,
): Generator<CommandLineItem, readonly string[]> {
  const operands: string[] = [];
  const rest = [...words];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === "--") return [...operands, ...rest];
    if (word.startsWith("--")) yield takeLong(word.slice(2), { rest, table });
    else if (word.startsWith("-") && word.length > 1) yield* takeLetters(word.slice(1), { rest, table });
    else operands.push(word);
  }
  return operands;
}

interface Taking {
  /** The words behind it: an argument is taken from there. */
  readonly rest: string[];
  readonly table: OptionTable;
}

function takeLong(text: string, { rest, table }: Taking): CommandLineItem {
  const equals = text.indexOf("=");
  const name = equals === -1 ? text : text.slice(0, equals);
  const given = equals === -1 ? undefined : text.slice(equals + 1);
  const found = findLong(name, table.long);
  if (found.length === 0) return { kind: "complaint", text: `unrecognized option '--${text}'` };
  const [option] = found;
  if (option === undefined || found.length > 1) {
    const all = found.map((each) => ` '--${each.name}'`).join("");
    return { kind: "complaint", text: `option '--${text}' is ambiguous; possibilities:${all}` };
  }
  if (option.argument === "none") {
    if (given === undefined) return { kind: "option", letter: option.letter, argument: "" };
    return { kind: "complaint", text: `option '--${option.name}' doesn't allow an argument` };
  }
  const argument = given ?? rest.shift();
  if (argument !== undefined) return { kind: "option", letter: option.letter, argument };
  return { kind: "complaint", text: `option '--${option.name}' requires an argument` };
}

/** The options that a name may mean; all of the same meaning count as one. */
function findLong(name: string, options: readonly LongOption[]): readonly LongOption[] {
  const exact = options.find((option) => option.name === name);
  if (exact !== undefined) return [exact];
  const candidates = options.filter((option) => option.name.startsWith(name));
  const [first] = candidates;
  return first !== undefined && candidates.every((each) => each.letter === first.letter)
    ? [first]
    : candidates;
}

function* takeLetters(bunch: string, { rest, table }: Taking): Generator<CommandLineItem> {
  const letters = [...bunch];
  for (let letter = letters.shift(); letter !== undefined; letter = letters.shift()) {
    const at = letter === ":" ? -1 : table.letters.indexOf(letter);
    if (at === -1) {
      yield { kind: "complaint", text: `invalid option -- '${letter}'` };
    } else if (table.letters[at + 1] !== ":") {
      yield { kind: "option", letter, argument: "" };
    } else {
      const argument = letters.length > 0 ? letters.splice(0).join("") : rest.shift();
      yield argument === undefined
        ? { kind: "complaint", text: `option requires an argument -- '${letter}'` }
        : { kind: "option", letter, argument };
    }
  }
}
