import type { SenderView, SlotView } from "../protocol/replication_views.ts";

/** Which slot and which sender are those of the archive's receiver. */
export interface OwnReceiver {
  readonly slot: SlotView | undefined;
  /** More than one when several receivers use one name. */
  readonly senders: readonly SenderView[];
}

/** How a receiver is told from the others of a server. */
export interface ReceiverNames {
  /** Its slot; `undefined` when nobody says. */
  readonly slot: string | undefined;
  readonly applicationName: string;
}

/** The slot's name in all our examples. */
const USUAL_SLOT = "walvault";

/**
 * Finds the archive's receiver among all that a server sends to.
 *
 * Its slot is the one that is named; else the one that a sender of our application's name uses; else one with the usual
 * name. Its sender is the one that uses that slot; without a slot, those with the application's name.
 */
export function findOwnReceiver(
  views: { readonly slots: readonly SlotView[]; readonly senders: readonly SenderView[] },
  { slot: slotName, applicationName }: ReceiverNames,
): OwnReceiver {
  const named = views.senders.filter((sender) => sender.applicationName === applicationName);
  const slot = slotName !== undefined
    ? views.slots.find(({ name }) => name === slotName)
    : views.slots.find(({ activePid }) => named.some(({ pid }) => pid === activePid)) ??
      views.slots.find(({ name }) => name === USUAL_SLOT);
  const bySlot = views.senders.filter(({ pid }) => slot?.activePid === pid);
  return { slot, senders: bySlot.length > 0 ? bySlot : slotName === undefined ? named : [] };
}
