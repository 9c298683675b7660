/** One option of a command. */
export interface CommandOption {
  /** Its forms as the help shows them, the long one last: "-d, --archive <directory>". */
  readonly flags: string;
  readonly description: string;
  /** Makes a value of its text; throws `InvalidOptionValue`. */
  readonly parse?: (text: string) => unknown;
  /** The texts that it takes. */
  readonly choices?: readonly string[];
  /** Its value when it is not given, and how the help shows that. */
  readonly fallback?: { readonly value: unknown; readonly shown?: string };
  /** Not for people. */
  readonly hidden?: true;
}

/** A command line as data: what `commander` is made from, and what a plain call is read with. */
export interface CommandTable {
  readonly name: string;
  readonly summary: string;
  readonly description: string;
  /** What stands beside the options, in order: `form` as the help shows it, "<file>". */
  readonly operands: readonly { readonly form: string; readonly description: string }[];
  readonly options: readonly CommandOption[];
  /** What the help shows below the options. */
  readonly helpText: string;
}

/** A command line, read. */
export interface CommandCall {
  readonly operands: readonly string[];
  /** By name in camel case; those that are neither given nor have a fallback are not there. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** An option's forms: `short` and `long` with their dashes; `takesValue` when a value follows. */
export function formsOf({ flags }: CommandOption): {
  readonly short: string | undefined;
  readonly long: string;
  readonly takesValue: boolean;
} {
  const [, short, long] = /^(?:(-[A-Za-z]), )?(--[a-z-]+)(?: <[a-z]+>)?$/.exec(flags) ?? [];
  if (long === undefined) throw new RangeError(`"${flags}" is not of the form "-x, --name <value>"`);
  return { short, long, takesValue: flags.endsWith(">") };
}
