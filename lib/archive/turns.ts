interface Turn {
  readonly kind: "look" | "change";
  start(): void;
}

/**
 * Lets calls take effect in the order they are made: looks go beside each other, a change waits for all before it and
 * holds up all after it.
 */
export class Turns {
  /** At most as many as there are callers. */
  readonly #waiting: Turn[] = [];
  #looking = 0;
  #changing = false;
  #ended: Error | undefined;

  /** Nothing waits, and nothing is under way. */
  get idle(): boolean {
    return this.#waiting.length === 0 && this.#looking === 0 && !this.#changing;
  }

  look<T>(act: () => Promise<T>): Promise<T> {
    return this.#take("look", act);
  }

  change<T>(act: () => Promise<T>): Promise<T> {
    return this.#take("change", act);
  }

  /** What is under way goes on; what has not started never does, and is refused, as is whatever comes later. */
  end(error: Error): void {
    this.#ended ??= error;
    this.#admit();
  }

  #take<T>(kind: Turn["kind"], act: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const start = async () => {
        try {
          if (this.#ended !== undefined) throw this.#ended;
          resolve(await act());
        } catch (error) {
          reject(error);
        }
        if (kind === "look") this.#looking--;
        else this.#changing = false;
        this.#admit();
      };
      this.#waiting.push({ kind, start });
      this.#admit();
    });
  }

  #admit(): void {
    for (;;) {
      const next = this.#waiting[0];
      if (next === undefined || this.#changing || (next.kind === "change" && this.#looking > 0)) return;
      this.#waiting.shift();
      if (next.kind === "look") this.#looking++;
      else this.#changing = true;
      next.start();
    }
  }
}
