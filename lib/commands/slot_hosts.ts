import type { ConnectionSettings, TargetSessionAttrs } from "../conninfo/settings.ts";
import type { Log } from "../log.ts";
import type { SlotHolderHost } from "../receiver/slots_elsewhere.ts";
import type { SlotHost } from "../receiver/standby_slots.ts";
import { connect } from "../session/connect.ts";
import { formatAddress } from "../session/socket.ts";

/** What looks after the slots on standbys is called so in `pg_stat_activity`. */
const SLOT_KEEPER_NAME = "walvault slots";

/** Each host of the connection string by itself. */
export function slotHosts(settings: ConnectionSettings, log: Log): readonly (SlotHost & SlotHolderHost)[] {
  return settings.hosts.map((host) => {
    const connectTo = (targetSessionAttrs: TargetSessionAttrs, signal: AbortSignal) =>
      // Under the receiver's own name it would be taken for it, by synchronous_standby_names too.
      connect({ ...settings, hosts: [host], targetSessionAttrs, applicationName: SLOT_KEEPER_NAME }, {
        log,
        signal,
      });
    return {
      name: formatAddress(host),
      connect: (signal) => connectTo("any", signal),
      connectToStandby: (signal) => connectTo("standby", signal),
    };
  });
}
