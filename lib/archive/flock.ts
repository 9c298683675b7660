/**
 * The one place that needs the runtime itself: `flock` is in no `node:` module.
 */
import * as fs from "node:fs";
import process from "node:process";

/** A lock that ends with `release`, or with the process. */
export interface FileLock {
  release(): void;
}

interface DenoFile {
  tryLockSync(exclusive: boolean): boolean;
  statSync(): { readonly ino: number | null };
  close(): void;
}

interface DenoRuntime {
  openSync(path: string, options: { read: boolean; write?: boolean }): DenoFile;
}

interface BunForeignFunctions {
  dlopen(
    library: string,
    symbols: Record<string, { args: string[]; returns: string }>,
  ): { symbols: Record<string, (...values: number[]) => number>; close(): void };
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Locks a file for this process alone, made with `mode` if it is not there; `undefined` when another process has it.
 *
 * The kernel lets go of it when the process ends, however it ends: a lock is never left behind.
 */
export function lockFile(path: string, mode: number): FileLock | undefined {
  const { O_CREAT, O_RDWR, O_NOFOLLOW } = fs.constants;
  const fd = fs.openSync(path, O_CREAT | O_RDWR | O_NOFOLLOW, mode);
  const runtime = globalThis as { Deno?: DenoRuntime; Bun?: unknown };
  if (runtime.Deno !== undefined) {
    fs.closeSync(fd);
    return lockWithDeno(runtime.Deno, path);
  }
  if (runtime.Bun !== undefined) return lockWithBun(fd, path);
  fs.closeSync(fd);
  throw new Error(`Cannot lock "${path}": this runtime has no flock; use Deno or Bun`);
}

/** Locks a directory itself, where no file of ours may stand in it; else as `lockFile`. */
export function lockDirectory(path: string): FileLock | undefined {
  const runtime = globalThis as { Deno?: DenoRuntime; Bun?: unknown };
  if (runtime.Deno !== undefined) return lockWithDeno(runtime.Deno, path, { read: true });
  if (runtime.Bun === undefined) {
    throw new Error(`Cannot lock "${path}": this runtime has no flock; use Deno or Bun`);
  }
  return lockWithBun(fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY), path);
}

function lockWithDeno(
  deno: DenoRuntime,
  path: string,
  options: { readonly read: boolean; readonly write?: boolean } = { read: true, write: true },
): FileLock | undefined {
  const file = deno.openSync(path, options);
  if (file.tryLockSync(true) && file.statSync().ino === fs.lstatSync(path).ino) {
    return { release: () => file.close() };
  }
  file.close();
  return undefined;
}

function lockWithBun(fd: number, path: string): FileLock | undefined {
  const ffi = process.getBuiltinModule("bun:ffi" as "fs") as unknown as BunForeignFunctions;
  const library = process.platform === "darwin" ? "libSystem.B.dylib" : "libc.so.6";
  const { symbols, close } = ffi.dlopen(library, { flock: { args: ["int", "int"], returns: "int" } });
  const locked = symbols["flock"]?.(fd, LOCK_EX | LOCK_NB) === 0;
  close();
  // Somebody may have removed the file between our opening and locking it.
  if (locked && fs.fstatSync(fd).ino === fs.lstatSync(path).ino) return { release: () => fs.closeSync(fd) };
  fs.closeSync(fd);
  return undefined;
}
