import { spawn } from "node:child_process";
import type { Log } from "../log.ts";

/**
 * Tells systemd that the service is up, where there is one (`NOTIFY_SOCKET` is set).
 *
 * Neither runtime has Unix datagram sockets in `node:`, so systemd's own program sends it: the unit needs
 * `Type=notify` and `NotifyAccess=all`.
 */
export function notifyReady(
  status: string,
  env: Readonly<Record<string, string | undefined>>,
  log: Log,
): void {
  if (!env["NOTIFY_SOCKET"]) return;
  try {
    const notifier = spawn("systemd-notify", ["--ready", `--status=streaming from ${status}`], {
      stdio: "ignore",
    });
    notifier.on("error", (error) => log.warn("systemd not notified", { error: error.message }));
  } catch (error) {
    // A sandbox without the right to start programs: receiving goes on, systemd has to do without.
    log.warn("systemd not notified", { error: String(error) });
  }
}
