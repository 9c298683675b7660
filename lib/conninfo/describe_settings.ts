import { formatKeywordValue } from "./keyword_value.ts";
import type { ConnectionSettings } from "./settings.ts";

/**
 * Hosts, ports, user and TLS mode as a connection string for logs: `host=a,b port=5432,5433 user=u sslmode=prefer`.
 *
 * Nothing else of the settings is in it, so no password can be.
 */
export function describeSettings(settings: ConnectionSettings): string {
  const { hosts, user, tls } = settings;
  const addresses = hosts.map(({ name, target }) =>
    target.kind === "tcp" && target.address !== name ? target.address : ""
  );
  return formatKeywordValue({
    host: hosts.map((host) => host.name).join(","),
    ...(addresses.every((address) => address === "") ? {} : { hostaddr: addresses.join(",") }),
    port: hosts.map((host) => host.port).join(","),
    user,
    sslmode: tls.mode,
  });
}
