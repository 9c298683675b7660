/** This program's version, as `--version` tells it. */
export const VERSION = "0.1.0";
