import { spawn } from "node:child_process";
import type { Log } from "../log.ts";

/**
 * Tells systemd the state of the service, where there is one (`NOTIFY_SOCKET` is set).
 *
 * Neither runtime has Unix datagram sockets in `node:`, so systemd's own program sends it: the unit needs
 * `Type=notify` and `NotifyAccess=all`.
 */
export function notifyServiceManager(
  state: "--ready" | "--stopping",
  status: string,
  { env, log }: { readonly env: Readonly<Record<string, string | undefined>>; readonly log: Log },
): void {
  if (!env["NOTIFY_SOCKET"]) return;
  try {
    const notifier = spawn("systemd-notify", [state, `--status=${status}`], { stdio: "ignore" });
    notifier.on("error", (error) => log.warn("systemd not notified", { error: error.message }));
  } catch (error) {
    // A sandbox without the right to start programs: receiving goes on, systemd has to do without.
    log.warn("systemd not notified", { error: String(error) });
  }
}
