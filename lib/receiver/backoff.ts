/** The first wait, and the longest. */
const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30_000;

/**
 * Milliseconds before the try after `failures` failed ones in a row: doubling, and spread over the upper half, so
 * that many receivers do not come back at once.
 *
 * @param random from 0 up to, not including, 1.
 */
export function backoffMs(failures: number, random: number): number {
  const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(failures, 16));
  return Math.round(ceiling / 2 + ceiling / 2 * random);
}
