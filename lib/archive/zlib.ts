import process from "node:process";

type Zlib = typeof import("node:zlib");

let loaded: Zlib | undefined;

/**
 * `node:zlib`, loaded when it is first used.
 *
 * That takes five milliseconds, which a push or fetch of a plain segment does not have.
 */
export function zlib(): Zlib {
  loaded ??= process.getBuiltinModule("node:zlib");
  return loaded;
}
