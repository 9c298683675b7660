/** A small file system of a test's own, to be filled, frozen and closed to writers; needs root. */
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { MIB, WorkDirectory } from "./receiver.ts";
import { mustRun, runCommand } from "./system_command.ts";

const IMAGE_BYTES = 48 * MIB;
const BALLAST_BYTES = 36 * MIB;

/** A mounted image. Whatever state a test leaves it in, it is thawed and unmounted. */
export class SmallDisk {
  readonly path: string;
  readonly #closed = new Set<string>();

  constructor(directory: WorkDirectory, imageBytes = IMAGE_BYTES) {
    const image = directory.file("image");
    this.path = directory.file("disk");
    fs.mkdirSync(this.path);
    fs.writeFileSync(image, "");
    fs.truncateSync(image, imageBytes);
    mustRun("mkfs.ext4", ["-q", "-m", "0", image]);
    mustRun("mount", ["-o", "loop", image, this.path]);
    fs.chmodSync(this.path, 0o700);
  }

  fill(bytes = BALLAST_BYTES): void {
    // Blocks, not a sparse file.
    fs.writeFileSync(join(this.path, ".snapshot"), new Uint8Array(bytes).fill(1));
    mustRun("sync", []);
  }

  /** As `fill`, but at most so much is left, and what fills it is not written. */
  fillUpTo(leftBytes: number): void {
    const { bavail, bsize } = fs.statfsSync(this.path);
    const bytes = Math.max(bsize, bavail * bsize - leftBytes);
    // The file system takes some blocks for itself: then this fails when all are taken.
    runCommand("fallocate", ["-l", String(bytes), join(this.path, ".snapshot")]);
    const left = fs.statfsSync(this.path);
    if (left.bavail * left.bsize > leftBytes) throw new Error(`Cannot fill ${this.path}`);
  }

  makeRoom(): void {
    fs.rmSync(join(this.path, ".snapshot"), { force: true });
  }

  freeze(): void {
    mustRun("fsfreeze", ["-f", this.path]);
  }

  thaw(): void {
    mustRun("fsfreeze", ["-u", this.path]);
  }

  remount(mode: "ro" | "rw"): void {
    mustRun("mount", ["-o", `remount,${mode}`, this.path]);
  }

  /** Nobody, not even root, can make or remove a name there; open files can be written to. */
  closeDirectory(path: string): void {
    this.#closed.add(path);
    mustRun("chattr", ["+i", path]);
  }

  openDirectories(): void {
    for (const path of this.#closed) {
      mustRun("chattr", ["-i", path]);
      this.#closed.delete(path);
    }
  }

  [Symbol.dispose](): void {
    runCommand("fsfreeze", ["-u", this.path]);
    const { ok, told } = runCommand("umount", [this.path]);
    if (!ok) {
      runCommand("umount", ["-l", this.path]);
      throw new Error(`Cannot unmount ${this.path}: ${told}`);
    }
  }
}

/** Why there can be no small disk here; `undefined` when there can. */
export function whyNoDisk(): string | undefined {
  if (process.platform !== "linux") return "needs Linux";
  if (process.getuid?.() !== 0) return "needs root";
  using directory = new WorkDirectory();
  try {
    using disk = new SmallDisk(directory);
    disk.freeze();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
