/** The import table of our style guide, as a check of source text: who may import whom, and who may touch what. */

/** What one folder of `lib/`, or one file beside it, may do. */
interface Room {
  /** Rooms it may import from. Its own files always. */
  readonly imports: readonly string[];
  /** Names from npm. */
  readonly packages?: readonly string[];
  /** `node:` modules; `"any"` where the process itself is the business. */
  readonly node: readonly string[] | "any";
  /** May read the clock, wait, and ask for chance itself. Others have it passed in. */
  readonly time: "own clock" | "timers" | "passed in";
  /** May use `process.env`, `process.stdout` and the like. */
  readonly process: "whole" | "facts";
  /** No `async`: values in, values out. */
  readonly pure?: true;
}

const NETWORK = ["net", "tls", "dns", "dns/promises"];
const FILES = ["fs", "fs/promises", "path"];
const PLAIN = ["buffer", "crypto", "events", "process", "stream", "timers", "util"];
const BELOW_COMMANDS = [
  "wal",
  "conninfo",
  "log",
  "protocol",
  "session",
  "archive",
  "receiver",
  "backup",
  "restore",
  "serve",
  "observe",
];
const AT_WORK = {
  imports: ["wal", "protocol", "archive", "log"],
  time: "passed in",
  process: "facts",
} as const;

const ROOMS: Readonly<Record<string, Room>> = {
  wal: { imports: [], node: [], time: "passed in", process: "facts", pure: true },
  conninfo: { imports: [], node: [], time: "passed in", process: "facts" },
  log: { imports: [], node: [], time: "passed in", process: "facts" },
  protocol: { imports: ["wal"], node: [], time: "passed in", process: "facts", pure: true },
  session: {
    imports: ["wal", "conninfo", "protocol", "log"],
    packages: ["postgres"],
    node: [...NETWORK, ...FILES, ...PLAIN],
    time: "own clock",
    process: "facts",
  },
  archive: {
    imports: ["wal", "log"],
    node: [...FILES, ...PLAIN, "os", "worker_threads", "zlib"],
    time: "timers",
    process: "facts",
  },
  receiver: { imports: ["wal", "protocol", "log"], node: [], time: "passed in", process: "facts" },
  backup: { ...AT_WORK, node: [...FILES, ...PLAIN, "zlib"] },
  restore: { ...AT_WORK, node: [...FILES, ...PLAIN, "zlib"] },
  serve: { ...AT_WORK, node: [...NETWORK, ...PLAIN] },
  observe: { ...AT_WORK, node: [...NETWORK, ...PLAIN, "http"] },
  commands: {
    imports: BELOW_COMMANDS,
    packages: ["commander"],
    node: "any",
    time: "own clock",
    process: "whole",
  },
  compat: {
    imports: [...BELOW_COMMANDS, "commands"],
    packages: ["commander"],
    node: "any",
    time: "own clock",
    process: "whole",
  },
  "mod.ts": { imports: [...BELOW_COMMANDS, "commands"], node: [], time: "passed in", process: "facts" },
  "cli.ts": {
    imports: ["commands", "compat", "log"],
    packages: ["commander"],
    node: ["process", "util"],
    time: "own clock",
    process: "whole",
  },
};

/** The one file that may ask which runtime it is on. */
const RUNTIME_FILE = "lib/archive/flock.ts";
const FORBIDDEN_NAMES = ["utils", "util", "common", "helpers", "types", "core"];

/**
 * What is wrong with a file, one sentence for each breach.
 *
 * @param path from the root of the repository, with `/`: `mod.ts`, `cli.ts` or below `lib/`
 */
export function architectureBreaches(path: string, source: string): readonly string[] {
  const room = roomOf(path);
  const rules = ROOMS[room];
  if (rules === undefined) return [`${path}: lib/ has no place for it in the import table`];
  const { code, specifiers } = readSource(source);
  const problems = [
    ...nameProblems(path),
    ...specifiers.flatMap((specifier) => importProblems(path, room, rules, specifier)),
    ...usageProblems(path, rules, code),
  ];
  return problems.map((problem) => `${path}: ${problem}`);
}

function roomOf(path: string): string {
  const [first = "", second = "", third] = path.split("/");
  if (first !== "lib") return first;
  return third === undefined ? second.replace(/\.ts$/, "") : second;
}

function nameProblems(path: string): readonly string[] {
  return path.split("/").flatMap((part) => {
    const name = part.replace(/\.ts$/, "");
    if (FORBIDDEN_NAMES.includes(name)) return [`the name "${name}" says nothing`];
    return /^[a-z0-9]+(_[a-z0-9]+)*$/.test(name) ? [] : [`"${part}" is not in snake_case`];
  });
}

function importProblems(path: string, room: string, rules: Room, specifier: string): readonly string[] {
  if (specifier === DYNAMIC) return ["imports a module whose name is not in the source"];
  if (specifier.startsWith("node:")) {
    const module = specifier.slice("node:".length);
    const base = module.replace(/^(stream|timers|util)\/.*/, "$1");
    if (rules.node !== "any" && !rules.node.includes(base)) return [`${room} may not touch "${specifier}"`];
    const waits = base === "timers" && rules.time === "passed in";
    return waits ? [`${room} gets the clock passed in, and imports "${specifier}"`] : [];
  }
  if (specifier.startsWith(".")) {
    const target = new URL(specifier, `file:///${path}`).pathname.slice(1);
    const known = target.startsWith("lib/") || target === "mod.ts" || target === "cli.ts" ||
      target === "deno.json";
    if (!known) return [`imports "${specifier}", which is not part of the program`];
    const targetRoom = roomOf(target);
    const allowed = target === "deno.json" || targetRoom === room || rules.imports.includes(targetRoom);
    return allowed ? [] : [`${room} may not import from ${targetRoom} ("${specifier}")`];
  }
  if (/^[a-z]+:/.test(specifier)) return [`imports "${specifier}"; Bun takes bare names and node: only`];
  return rules.packages?.includes(specifier) ? [] : [`${room} may not import "${specifier}"`];
}

function usageProblems(path: string, rules: Room, code: string): readonly string[] {
  const found: string[] = [];
  const refuse = (pattern: RegExp, problem: string) => {
    if (pattern.test(code)) found.push(problem);
  };
  if (path !== RUNTIME_FILE) {
    refuse(/(?<![\w$.#])(Deno|Bun)\s*[.[?]|globalThis\s*\.\s*(Deno|Bun)\b/, "uses Deno. or Bun.");
  }
  refuse(/(?<![\w$.#])console\s*[.[]/, "writes to the console");
  const endsProcess = "ends the process; set process.exitCode";
  // In one place, for a disk that does not answer: Bun waits until its own threads' calls return. All is written by then.
  const otherCode = path === "cli.ts" ? code.replace("if (hanging) process.exit();", "") : code;
  if (/\bprocess\s*\.\s*(exit|abort|reallyExit)\b/.test(otherCode)) found.push(endsProcess);
  refuse(/\bimport\s+[^;]*\b(exit|abort)\b[^;]*from\s*"node:process"/, endsProcess);
  if (rules.process === "facts") {
    const wholeProcess =
      /\bprocess\s*\.\s*(env|argv|stdin|stdout|stderr|on|once|exitCode|title|chdir|cwd|kill)\b/;
    refuse(wholeProcess, "uses the process: only commands and cli.ts may");
    refuse(
      /\bimport\s+[^;]*\b(env|argv|stdin|stdout|stderr)\b[^;]*from\s*"node:process"/,
      "uses the process",
    );
  }
  if (rules.time !== "own clock") {
    refuse(
      /\bDate\s*\.\s*now\b|\bnew\s+Date\s*(\(\s*\)|;)|\bperformance\s*\.\s*now\b|\bhrtime\b/,
      "reads the clock",
    );
    refuse(/\bMath\s*\.\s*random\b|\bgetRandomValues\b|\brandomUUID\b|\brandomBytes\b/, "uses chance");
  }
  if (path.startsWith("lib/session/")) refuse(/\bMath\s*\.\s*random\b/, "uses chance");
  if (rules.time === "passed in") {
    refuse(
      /(?<![\w$.#])(setTimeout|setInterval|setImmediate)\b|\bAbortSignal\s*\.\s*timeout\b/,
      "waits by itself",
    );
  }
  if (rules.pure) refuse(/\b(async|await)\b|\bPromise\s*\.|\bnew\s+Promise\b/, "is not pure: async");
  if (path === "mod.ts") {
    refuse(/\bexport\s+(\*|default)|\b(const|let|function|class)\b/, "does more than re-export names");
  }
  return found;
}

const DYNAMIC = "(not a literal)";

interface SourceText {
  /** Without comments; the inside of strings is blank, but for the names of modules. */
  readonly code: string;
  /** Everything imported, re-exported, required or started as a module. */
  readonly specifiers: readonly string[];
}

/** Takes a source apart as far as the rules need it. Templates: their `${}` parts are code, the rest is text. */
export function readSource(source: string): SourceText {
  let code = "";
  const strings: string[] = [];
  /** For each open `${`: how many braces are open inside it. */
  const templates: number[] = [];
  let position = 0;

  const readTemplate = () => {
    for (; position < source.length; position++) {
      if (source[position] === "\\") position++;
      else if (source[position] === "`") {
        position++;
        return;
      } else if (source.startsWith("${", position)) {
        templates.push(0);
        code += " (";
        position += 2;
        return;
      }
    }
  };

  while (position < source.length) {
    const character = source[position]!;
    const rest = source.slice(position, position + 2);
    if (rest === "//") {
      while (position < source.length && source[position] !== "\n") position++;
    } else if (rest === "/*") {
      const end = source.indexOf("*/", position + 2);
      position = end < 0 ? source.length : end + 2;
      code += " ";
    } else if (character === '"' || character === "'") {
      let text = "";
      for (position++; position < source.length && source[position] !== character; position++) {
        if (source[position] === "\\") position++;
        text += source[position];
      }
      position++;
      code += `"${strings.length}"`;
      strings.push(text);
    } else if (character === "`") {
      code += '""';
      position++;
      readTemplate();
    } else if (character === "}" && templates.at(-1) === 0) {
      templates.pop();
      code += ") ";
      position++;
      readTemplate();
    } else if (character === "/" && /(^|[=(,:[!&|?{};+\n]|\breturn|=>)\s*$/.test(code.slice(-20))) {
      let inClass = false;
      for (position++; position < source.length; position++) {
        const inside = source[position]!;
        if (inside === "\\") position++;
        else if (inside === "\n") break;
        else if (inside === "[") inClass = true;
        else if (inside === "]") inClass = false;
        else if (inside === "/" && !inClass) break;
      }
      position++;
      code += '""';
    } else {
      if (templates.length > 0) {
        if (character === "{") templates[templates.length - 1]!++;
        if (character === "}") templates[templates.length - 1]!--;
      }
      code += character;
      position++;
    }
  }

  const specifiers: string[] = [];
  const statement =
    /\b(?:import|export)\b(?:[\w$*{},\s]*?\bfrom)?\s*"(\d+)"|\b(?:import|require)\s*\(\s*("(\d+)")?|\bnew\s+Worker\s*\(\s*new\s+URL\s*\(\s*"(\d+)"\s*,/g;
  code = code.replaceAll(
    statement,
    (text, plain?: string, quoted?: string, called?: string, worker?: string) => {
      const index = plain ?? called ?? worker;
      const specifier = index === undefined ? DYNAMIC : strings[Number(index)]!;
      specifiers.push(specifier);
      return index === undefined || quoted === undefined && plain === undefined && worker === undefined
        ? text
        : text.replace(`"${index}"`, JSON.stringify(specifier));
    },
  );
  return { code, specifiers };
}
