import * as fs from "node:fs";
import { AlignedMemory } from "./aligned_memory.ts";
import { asNotAFile } from "./damaged_file.ts";
import type { Disk, DiskEntry, DiskFile, DiskSpace, NamedEntry } from "./disk.ts";
import { DISK_PROTOCOL, type DiskRules, diskRules } from "./disk_executor.ts";
import { errorCode } from "./durable.ts";
import { Turns } from "./turns.ts";

/** Calls the runtime, which answers when one of its own threads is done. */
function ask<T>(call: (done: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, value) => error === null || error === undefined ? resolve(value) : reject(error));
  });
}

/** As `ask`, where the answer is only that it is done. */
function tell(call: (done: (error: Error | null) => void) => void): Promise<void> {
  return ask<void>((done) => call((error) => done(error)));
}

async function unlessAbsent<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * The real disk on the threads that the runtime has anyway, for a command that does one thing and ends: to start one of
 * our own takes longer than all that it would do.
 *
 * Only where the runtime's calls with a callback leave the calling thread alone: Bun's do, Deno's stand still on it. An
 * operation that does not return keeps the process from ending by itself.
 * @param memoryBytes how much `allocate` can hand out in all.
 */
export function openPooledDisk(root: string, memoryBytes: number): Disk {
  return new PooledDisk(root, memoryBytes);
}

class PooledDisk implements Disk {
  readonly #memory: AlignedMemory;
  readonly #rules: DiskRules;
  readonly #turns = new Turns();

  constructor(readonly root: string, memoryBytes: number) {
    this.#memory = new AlignedMemory(memoryBytes);
    this.#rules = diskRules(fs, { root, pastCache: true, ...DISK_PROTOCOL });
  }

  allocate(bytes: number): Uint8Array {
    return this.#memory.allocate(bytes);
  }

  open(path: string): Promise<DiskFile | undefined> {
    return this.#turns.look(async () => {
      const handle = await unlessAbsent(this.#openFile(path));
      return handle === undefined ? undefined : this.#file(handle, undefined);
    });
  }

  create(path: string, mode: number): Promise<DiskFile> {
    return this.#turns.change(async () => {
      const handle = await this.#open(path, this.#rules.flags.create, mode);
      // The umask took its part; the mode of the archive directory is what decides.
      await tell((done) => fs.fchmod(handle, mode, done));
      return this.#file(handle, await this.#openDirect(handle, path));
    });
  }

  append(path: string, mode: number): Promise<DiskFile> {
    return this.#turns.change(async () => {
      const { append, appendNew } = this.#rules.flags;
      const known = await unlessAbsent(this.#open(path, append));
      if (known !== undefined) return this.#file(known, undefined);
      const handle = await this.#open(path, appendNew, mode);
      await tell((done) => fs.fchmod(handle, mode, done));
      return this.#file(handle, undefined);
    });
  }

  link(existing: string, added: string): Promise<void> {
    return this.#turns.change(() =>
      tell((done) => fs.link(this.#rules.at(existing), this.#rules.at(added), done))
    );
  }

  rename(from: string, to: string): Promise<void> {
    return this.#turns.change(() =>
      tell((done) => fs.rename(this.#rules.at(from), this.#rules.at(to), done))
    );
  }

  unlink(path: string): Promise<void> {
    return this.#turns.change(() => tell((done) => fs.unlink(this.#rules.at(path), done)));
  }

  list(path: string): Promise<readonly string[] | undefined> {
    return this.#turns.look(() => this.#list(path));
  }

  entries(path: string): Promise<readonly NamedEntry[] | undefined> {
    return this.#turns.look(async () => {
      const names = await this.#list(path);
      if (names === undefined) return undefined;
      const entries: NamedEntry[] = [];
      for (const name of names) {
        const entry = await this.#entry(`${path}/${name}`);
        // One that is gone since is not there.
        if (entry !== undefined) entries.push({ name, ...entry });
      }
      return entries;
    });
  }

  entry(path: string): Promise<DiskEntry | undefined> {
    return this.#turns.look(() => this.#entry(path));
  }

  makeDirectory(path: string, mode: number): Promise<void> {
    return this.#turns.change(async () => {
      await tell((done) => fs.mkdir(this.#rules.at(path), { mode }, done));
      await tell((done) => fs.chmod(this.#rules.at(path), mode, done));
    });
  }

  syncDirectory(path: string): Promise<void> {
    return this.#turns.change(async () => {
      const handle = await this.#open(path, this.#rules.flags.directory);
      try {
        await tell((done) => fs.fsync(handle, done));
      } finally {
        await closeHandle(handle);
      }
    });
  }

  space(): Promise<DiskSpace> {
    return this.#turns.look(async () => {
      const stat = await ask<fs.StatsFs>((done) => fs.statfs(this.root, done));
      return { freeBytes: stat.bavail * stat.bsize, totalBytes: stat.blocks * stat.bsize };
    });
  }

  close(): Promise<"ended" | "stuck"> {
    const end = this.#turns.idle ? "ended" : "stuck";
    this.#turns.end(new Error("Cannot use the disk: it is closed"));
    return Promise.resolve(end);
  }

  /** A file, and nothing else. */
  async #openFile(path: string): Promise<number> {
    const rules = this.#rules;
    const handle = await this.#open(path, rules.flags.read).catch(async (error) => {
      const isLeased = rules.isLeased(error);
      if (!isLeased && !rules.isNoFile(error)) throw error;
      const refusal = rules.refusal(await ask<fs.Stats>((done) => fs.lstat(rules.at(path), done)), path);
      if (refusal !== undefined || !isLeased) throw asNotAFile(refusal ?? error);
      return await this.#open(path, rules.flags.readWaiting);
    });
    const refusal = rules.refusal(await statHandle(handle), path);
    if (refusal === undefined) return handle;
    await closeHandle(handle);
    throw asNotAFile(refusal);
  }

  #open(path: string, flags: number, mode?: number): Promise<number> {
    return ask((done) => fs.open(this.#rules.at(path), flags, mode, done));
  }

  #list(path: string): Promise<readonly string[] | undefined> {
    return unlessAbsent(ask<string[]>((done) => fs.readdir(this.#rules.at(path), done)));
  }

  async #entry(path: string): Promise<DiskEntry | undefined> {
    const stat = await unlessAbsent(ask<fs.Stats>((done) => fs.lstat(this.#rules.at(path), done)));
    return stat === undefined ? undefined : this.#rules.describe(stat);
  }

  /** The same file once more, written past the page cache. */
  async #openDirect(handle: number, path: string): Promise<number | undefined> {
    const { direct } = this.#rules.flags;
    if (direct === undefined) return undefined;
    try {
      const again = await this.#open(path, direct);
      // Somebody may have put another file under the name in between.
      const [first, second] = await Promise.all([statHandle(handle), statHandle(again)]);
      if (first.ino === second.ino) return again;
      await closeHandle(again);
    } catch {
      // Not every file system has it; the page cache is only slower.
    }
    return undefined;
  }

  #file(handle: number, direct: number | undefined): DiskFile {
    const turns = this.#turns;
    let again = direct;
    const closeDirect = async () => {
      const closing = again;
      again = undefined;
      if (closing !== undefined) await closeHandle(closing);
    };
    return {
      write: (bytes, position) =>
        turns.change(async () => {
          for (let done = 0; done < bytes.length;) {
            const rest = {
              // Other memory begins anywhere.
              offset: this.#memory.holds(bytes) ? bytes.byteOffset + done : 1,
              length: bytes.length - done,
              position: position + done,
            };
            const count = again === undefined ? 0 : this.#rules.pastCache(rest);
            if (again === undefined || count === 0) {
              const length = this.#rules.throughCache(rest, again !== undefined);
              done += await writePart(handle, bytes, { done, length, position: rest.position });
              continue;
            }
            try {
              done += await writePart(again, bytes, { done, length: count, position: rest.position });
            } catch (error) {
              if (errorCode(error) !== "EINVAL") throw error;
              await closeDirect();
            }
          }
        }),
      read: (buffer, position) =>
        turns.look(async () => {
          let done = 0;
          while (done < buffer.length) {
            const count = await ask<number>((answer) =>
              fs.read(handle, buffer, done, buffer.length - done, position + done, answer)
            );
            if (count === 0) break;
            done += count;
          }
          return done;
        }),
      truncate: (bytes) => turns.change(() => tell((done) => fs.ftruncate(handle, bytes, done))),
      sync: () => turns.change(() => tell((done) => fs.fdatasync(handle, done))),
      bytes: () => turns.look(async () => (await statHandle(handle)).size),
      inode: () => turns.look(async () => (await statHandle(handle)).ino),
      state: () => turns.look(async () => this.#rules.state(await statHandle(handle))),
      close: () =>
        turns.change(async () => {
          await closeDirect();
          await closeHandle(handle);
        }),
    };
  }
}

function statHandle(handle: number): Promise<fs.Stats> {
  return ask((done) => fs.fstat(handle, done));
}

function closeHandle(handle: number): Promise<void> {
  return tell((done) => fs.close(handle, done));
}

function writePart(
  handle: number,
  bytes: Uint8Array,
  { done, length, position }: { readonly done: number; readonly length: number; readonly position: number },
): Promise<number> {
  return ask((answer) => fs.write(handle, bytes, done, length, position, answer));
}
