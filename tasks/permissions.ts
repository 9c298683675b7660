/**
 * What the program may do under Deno, in one place: the compile tasks bake it in, the container image runs with it,
 * the README names it, and tests/cli/permissions_test.ts holds all of them to it.
 */

/** Environment variables that are read; everything else reads as not set. */
export const ENVIRONMENT: readonly string[] = [
  "PG*", // libpq's own
  "WALVAULT_*",
  "HOME", // ~/.pgpass, ~/.pg_service.conf, ~/.postgresql/
  "USER",
  "NOTIFY_SOCKET", // systemd
];

/** Facts of the system: free space, the umask, and who we are. */
export const SYSTEM: readonly string[] = ["statfs", "umask", "uid", "gid", "userInfo"];

/** The one program that may be started, by the executable without a sandbox only: it says to systemd that we are ready. */
export const NOTIFIER = "systemd-notify";

/** Where the program may go. */
export interface Reach {
  /** `host:port` of each server; without it, any. */
  readonly servers?: readonly string[];
  /** The one directory that may be written; without it, any. */
  readonly archive?: string;
  /** Files that are read besides: certificates, a password file. Only counts with `archive`. */
  readonly readable?: readonly string[];
}

/** Options for `deno run` and `deno compile`. */
export function permissionOptions({ servers, archive, readable = [] }: Reach): readonly string[] {
  return [
    "--no-prompt",
    "--deny-import", // no code but its own
    servers === undefined ? "--allow-net" : `--allow-net=${servers.join(",")}`,
    archive === undefined ? "--allow-read" : `--allow-read=${[archive, ...readable].map(listed).join(",")}`,
    archive === undefined ? "--allow-write" : `--allow-write=${listed(archive)}`,
    "--ignore-env",
    `--allow-env=${ENVIRONMENT.join(",")}`,
    `--allow-sys=${SYSTEM.join(",")}`,
    ...(archive === undefined ? [`--allow-run=${NOTIFIER}`] : []),
  ];
}

/** In Deno's lists a comma separates, and a doubled one is itself. */
function listed(path: string): string {
  return path.replaceAll(",", ",,");
}
