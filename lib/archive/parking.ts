/** How two threads stand still for each other, at words of shared memory. */
export interface Parking {
  /** Stands still while the word holds `expected`, at most `timeoutMs`. May return early: look again. */
  wait(word: number, expected: number, timeoutMs?: number): void;
  /** Wakes whoever stands at the word. */
  wake(word: number): void;
}

/** Both threads must use the same. */
export type ParkingKind = "futex" | "atomics";

/** What `openParking` uses of the module `node:process`. */
export interface ParkingProcess {
  readonly platform: string;
  readonly arch: string;
  getBuiltinModule(name: "bun:ffi"): unknown;
}

/**
 * The kernel's futex where the runtime can call it, else `Atomics`.
 *
 * JavaScriptCore keeps a queue with locks of its own behind `Atomics.wait`: to hand over and to wait once is eight
 * system calls there, and four here.
 *
 * Its source text runs in the disk thread too, so it uses nothing but its parameters and globals.
 * @param wanted what the other thread uses; the first one chooses.
 */
export function openParking(
  process: ParkingProcess,
  words: Int32Array,
  wanted?: ParkingKind,
): { readonly kind: ParkingKind; readonly parking: Parking } {
  /** linux/futex.h; the private flag is for threads of one process. */
  const FUTEX_WAIT_PRIVATE = 128;
  const FUTEX_WAKE_PRIVATE = 129;
  /** The numbers of the system call, asm/unistd.h. */
  const numbers: Readonly<Record<string, number>> = { x64: 202, arm64: 98 };
  const openFutex = (): Parking | undefined => {
    const number = process.platform === "linux" ? numbers[process.arch] : undefined;
    if (number === undefined) return undefined;
    const ffi = process.getBuiltinModule("bun:ffi") as {
      dlopen(library: string, symbols: object): {
        readonly symbols: {
          syscall(
            number: number,
            address: number,
            operation: number,
            value: number,
            timeout: number | null,
          ): number;
        };
      };
      ptr(view: ArrayBufferView): number;
    } | undefined;
    if (ffi === undefined) return undefined;
    const { syscall } = ffi.dlopen("libc.so.6", {
      syscall: { args: ["int", "ptr", "int", "int", "ptr"], returns: "int" },
    }).symbols;
    const start = ffi.ptr(words);
    /** A `struct timespec`: seconds and nanoseconds. */
    const time = new BigInt64Array(2);
    const timeAddress = ffi.ptr(time);
    const at = (word: number) => start + word * Int32Array.BYTES_PER_ELEMENT;
    // A sandbox may forbid it: then it says so at once, and waits would not wait.
    if (syscall(number, at(0), FUTEX_WAKE_PRIVATE, 1, null) < 0) return undefined;
    return {
      wait(word, expected, timeoutMs) {
        if (timeoutMs !== undefined) {
          time[0] = BigInt(Math.floor(timeoutMs / 1000));
          time[1] = BigInt(Math.floor(timeoutMs % 1000 * 1e6));
        }
        syscall(number, at(word), FUTEX_WAIT_PRIVATE, expected, timeoutMs === undefined ? null : timeAddress);
      },
      wake(word) {
        syscall(number, at(word), FUTEX_WAKE_PRIVATE, 1, null);
      },
    };
  };
  const tryFutex = (): Parking | undefined => {
    try {
      return openFutex();
    } catch {
      // Another C library, or none that can be called.
      return undefined;
    }
  };
  const futex = wanted === "atomics" ? undefined : tryFutex();
  if (futex !== undefined) return { kind: "futex", parking: futex };
  if (wanted === "futex") throw new Error("Cannot wait for the other thread: it uses futexes");
  return {
    kind: "atomics",
    parking: {
      wait: (word, expected, timeoutMs) => void Atomics.wait(words, word, expected, timeoutMs),
      wake: (word) => void Atomics.notify(words, word),
    },
  };
}
