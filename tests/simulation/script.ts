/** One thing that went wrong in a run, or that made it odd. */
export interface Disturbance {
  /** Its kind and its number among those of its kind: `crash-2`. */
  readonly name: string;
  readonly atMs: number;
  /** What a reader should know of it. */
  readonly detail: string;
}

/**
 * The disturbances of one run, by name; all happen, or only some.
 *
 * One that is left out keeps its number: the others' names mean the same with it and without it, as far as the run
 * goes the same way.
 */
export class Script {
  readonly #numbers = new Map<string, number>();
  readonly #played: Disturbance[] = [];

  constructor(
    private readonly nowMs: () => number,
    private readonly only?: ReadonlySet<string>,
  ) {}

  /** What happened, or was made to happen later. */
  get played(): readonly Disturbance[] {
    return this.#played;
  }

  /** Whether the next disturbance of a kind happens. */
  allows(kind: string, detail = ""): boolean {
    const number = (this.#numbers.get(kind) ?? 0) + 1;
    this.#numbers.set(kind, number);
    const name = `${kind}-${number}`;
    if (this.only !== undefined && !this.only.has(name)) return false;
    this.#played.push({ name, atMs: this.nowMs(), detail });
    return true;
  }
}
