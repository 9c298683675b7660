import type { ConnectionSettings } from "../conninfo/settings.ts";
import type { Log } from "../log.ts";
import { ServerError } from "../protocol/errors.ts";
import { PermanentError } from "../receiver/failure.ts";
import { dropElsewhere, tellElsewhere } from "../receiver/slots_elsewhere.ts";
import { connect } from "../session/connect.ts";
import { realClock } from "./clock.ts";
import { EXIT } from "./context.ts";
import { slotHosts } from "./slot_hosts.ts";

/** undefined_object: there is no such slot. */
const NO_SUCH_OBJECT = "42704";

/**
 * Drops a slot on the server that the connection string leads to, and where told to on each of its standbys.
 *
 * @throws {PermanentError} when it is a logical one, which is somebody else's, was not there, or may be left on a standby.
 */
export async function dropSlot(
  { slot, onStandbys }: { readonly slot: string; readonly onStandbys: boolean },
  { settings, log }: { readonly settings: ConnectionSettings; readonly log: Log },
  signal: AbortSignal,
): Promise<number> {
  const source = await connect(settings, { log, signal });
  let systemIdentifier: bigint;
  let isThere = true;
  try {
    ({ systemIdentifier } = await source.identifySystem());
    if ((await source.readSlot(slot))?.kind === "logical") {
      throw new PermanentError(
        `Cannot drop replication slot "${slot}": it is a logical slot, want a physical one; if it must go, run on the ` +
          `server: SELECT pg_drop_replication_slot('${slot}')`,
      );
    }
    await source.dropSlot(slot);
    log.info("slot dropped", { slot, server: source.address });
  } catch (cause) {
    if (!(cause instanceof ServerError) || cause.sqlState !== NO_SUCH_OBJECT) throw cause;
    isThere = false;
  } finally {
    await source.close();
  }
  const hosts = slotHosts(settings, log).filter(({ name }) => name !== source.address);
  const elsewhere = { hosts, slot, systemIdentifier: systemIdentifier!, clock: realClock, log };
  const left = onStandbys ? await dropElsewhere(elsewhere) : [];
  if (!onStandbys) await tellElsewhere(elsewhere);
  if (!isThere) {
    throw new PermanentError(`Cannot drop replication slot "${slot}": the server has none of that name`);
  }
  if (left.length > 0) {
    throw new PermanentError(
      `Cannot drop replication slot "${slot}" everywhere: it may be left on ${left.join(", ")}`,
    );
  }
  return EXIT.done;
}
