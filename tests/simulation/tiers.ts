/** Seeds that every run of the tests plays; mutations must be noticed within them. */
export const FAST_SEEDS = 5000;
/** The same under Bun, which is slower at it. */
export const BUN_SEEDS = 1000;
