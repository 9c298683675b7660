/** Time that only goes forward. The simulation replaces it. */
export interface Clock {
  /** Milliseconds since some moment; never jumps. */
  nowMs(): number;
  /** Calls back once, after `delayMs`; the returned function calls it off. */
  setTimer(delayMs: number, callback: () => void): () => void;
}
