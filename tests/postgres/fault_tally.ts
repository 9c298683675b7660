/** What became of injected faults, family by family. */

/** One fault, from its injection to the last check. */
export interface FaultOutcome {
  readonly family: string;
  /** Commits waited for the receiver. */
  readonly synchronous: boolean;
  /** What clients were told is committed. */
  readonly acknowledged: number;
  /** Of these, what the archive does not hold. */
  readonly lost: number;
  /** The longest time in which no client was told of a commit. */
  readonly stallMs: number;
  /** From the fault's end until the server knew that the receiver has everything again; `undefined` when that is not to be. */
  readonly recoveryMs: number | undefined;
  /** In words, where more than one thing may come of it. */
  readonly cameOfIt: string | undefined;
  /** What did not hold. */
  readonly problem: string | undefined;
}

interface Row {
  injected: number;
  survived: number;
  synchronous: number;
  acknowledged: number;
  lost: number;
  stallMs: number;
  recoveryMs: number | undefined;
}

/** Counts outcomes, and tells them as the rows of a table. */
export class FaultTally {
  readonly #rows = new Map<string, Row>();
  readonly problems: string[] = [];

  add(outcome: FaultOutcome): void {
    const row = this.#rows.get(outcome.family) ?? {
      injected: 0,
      survived: 0,
      synchronous: 0,
      acknowledged: 0,
      lost: 0,
      stallMs: 0,
      recoveryMs: undefined,
    };
    this.#rows.set(outcome.family, row);
    row.injected++;
    if (outcome.problem === undefined) row.survived++;
    else this.problems.push(outcome.problem);
    if (outcome.recoveryMs !== undefined) row.recoveryMs = Math.max(row.recoveryMs ?? 0, outcome.recoveryMs);
    if (!outcome.synchronous) return;
    // Of other rounds nobody promised that a commit is here, or comes as soon as it can.
    row.synchronous++;
    row.acknowledged += outcome.acknowledged;
    row.lost += outcome.lost;
    row.stallMs = Math.max(row.stallMs, outcome.stallMs);
  }

  /** Acknowledged commits of synchronous rounds that the archive does not hold. */
  get lost(): number {
    return [...this.#rows.values()].reduce((sum, row) => sum + row.lost, 0);
  }

  /** Markdown; one line for each of these families in their order, those that never came too. */
  table(families: readonly string[]): readonly string[] {
    return [
      "| fault | injected | survived | of them synchronous | commits acknowledged | commits lost | longest stall of commits | longest way back |",
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
      ...families.map((family) => {
        const row = this.#rows.get(family);
        if (row === undefined) return `| ${family} | 0 | | | | | | |`;
        const isSynchronous = row.synchronous > 0;
        const cells = [
          family,
          row.injected,
          row.survived,
          row.synchronous,
          isSynchronous ? row.acknowledged : "",
          isSynchronous ? row.lost : "",
          isSynchronous ? seconds(row.stallMs) : "",
          row.recoveryMs === undefined ? "" : seconds(row.recoveryMs),
        ];
        return `| ${cells.join(" | ")} |`;
      }),
    ];
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** The longest rest between two of these moments, the first and the last moment of watching included. */
export function longestRestMs(
  moments: Iterable<number>,
  { startedMs, endedMs }: { readonly startedMs: number; readonly endedMs: number },
): number {
  let longest = 0;
  let before = startedMs;
  for (const moment of [...moments, endedMs].sort((a, b) => a - b)) {
    longest = Math.max(longest, moment - before);
    before = moment;
  }
  return longest;
}
