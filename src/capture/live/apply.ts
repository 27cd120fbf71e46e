/**
 * Puts a Plan in place. Routes and ip rules come first: without the firewall's mark they have no
 * effect on any packet. The firewall is one transaction, and with it capture begins. So whatever
 * moment this ends at, either all is there or nothing captures.
 */

import { EINVAL, EOPNOTSUPP } from "../../../ffi/errno.ts";
import {
  NFT_MSG_NEWTABLE,
  NFT_TABLE_F_OWNER,
  NFT_TABLE_F_PERSIST,
} from "../../../ffi/netlink/constants.ts";
import { decodeTable, newTable } from "../../../ffi/netlink/nftables/table.ts";
import { NetlinkError } from "../../../ffi/netlink/socket.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { closedMessages } from "./closed.ts";
import type { CurrentState } from "./current-state.ts";
import { type DesiredState, nftType, type RoutingPart } from "./desired-state.ts";
import { describePart, isSameFirewall, missingRouting, staleRouting } from "./differences.ts";
import type { Kernel } from "./kernel.ts";
import { closedSuffix, pendingSuffix } from "./names.ts";
import { deleteTables, removeRouting } from "./remove.ts";

/** How a Plan is applied. */
export interface ApplyOptions {
  /** The protocol number of its rules and routes. */
  readonly tag: number | undefined;
  /** The firewall table is this process's own, and goes with it. */
  readonly owned?: boolean;
  /** It stays when the process ends; others cannot change it meanwhile. */
  readonly persists?: boolean | undefined;
  /** Messages that go with the same transaction. */
  readonly also?: readonly Message[];
  /** Drop the captured traffic when the table is gone. */
  readonly closed?: boolean;
  /** It waits for `--confirm`; an empty table beside it marks that. */
  readonly pending?: boolean;
}

/** The steps that were done. */
export interface Applied {
  /** A line for each change; none if nothing had to change. */
  readonly changes: readonly string[];
  /** Whether the kernel ties the table to this process; false also where it cannot. */
  readonly owned: boolean;
}

/**
 * Makes the running system match the Plan. Undoes all steps when one fails.
 * @throws NetlinkError, SyscallError, UnmarkedCapture
 */
export function applyParts(
  kernel: Kernel,
  parts: DesiredState,
  live: CurrentState,
  options: ApplyOptions,
): Applied {
  const { name } = parts.firewall.table;
  const missing = missingRouting(parts, live);
  const stale = staleRouting(parts, live, options.tag);
  const hasClosed = live.tables.some((table) => table.name === name + closedSuffix);
  const isHeld = live.firewall?.table.owner === kernel.netfilter.portId;
  const changesFirewall =
    (options.owned === true && !isHeld) ||
    options.pending === true ||
    hasClosed ||
    !isSameFirewall(parts.firewall, live.firewall);
  const batch = (owned: boolean) => [
    ...(options.also ?? []),
    ...firewallBatch(parts, live, { ...options, owned }),
  ];
  const added: RoutingPart[] = [];
  let owned = isHeld;
  try {
    for (const part of missing) {
      kernel.route.request(part.message);
      added.push(part);
    }
    if (changesFirewall) owned = sendBatch(kernel, batch, options.owned === true);
  } catch (error) {
    removeRouting(kernel, added.toReversed());
    throw error;
  }
  removeRouting(kernel, stale);
  const firewall = live.firewall === undefined ? "+" : "~";
  return {
    changes: [
      ...missing.map((part) => `+ ${describePart(part)}`),
      ...(changesFirewall ? [`${firewall} ${firewallText(parts)}`] : []),
      ...(hasClosed && !options.closed ? [`- table inet ${name}${closedSuffix}`] : []),
      ...(options.closed ? [`+ table inet ${name}${closedSuffix}: ${closedText(parts)}`] : []),
      ...stale.map((part) => `- ${describePart(part)}`),
    ],
    owned,
  };
}

function closedText({ behindMessages }: DesiredState): string {
  if (behindMessages === undefined) return "drops what is not marked";
  return "refuses new connections when this process has ended";
}

function firewallText({ firewall }: DesiredState): string {
  const rules = firewall.chains.reduce((sum, chain) => sum + chain.rules.length, 0);
  return `table inet ${firewall.table.name}: ${rules} ${rules === 1 ? "rule" : "rules"}`;
}

/** Sends the batch, without an owner where the kernel knows none; whether the table has one. */
function sendBatch(
  kernel: Kernel,
  batch: (owned: boolean) => readonly Message[],
  owned: boolean,
): boolean {
  try {
    kernel.netfilter.batch(batch(owned));
    return owned;
  } catch (error) {
    if (!owned || !isOwnerRefusal(error)) throw error;
    // Before Linux 5.12 tables have no owner, and before 6.9 none that they outlive: flags that the
    // kernel does not know are refused.
    kernel.netfilter.batch(batch(false));
    return false;
  }
}

function isOwnerRefusal(error: unknown): boolean {
  return error instanceof NetlinkError && [EINVAL, EOPNOTSUPP].includes(error.errno as never);
}

/** Of a table that its process owns, and that stays after it or not. */
export function ownerFlags(persists = false): number {
  return persists ? NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST : NFT_TABLE_F_OWNER;
}

/** One transaction from what is there to what should be. @throws UnmarkedCapture */
export function firewallBatch(
  parts: DesiredState,
  live: Pick<CurrentState, "tables">,
  { owned, persists, closed, pending }: Omit<ApplyOptions, "tag" | "also">,
): Message[] {
  const { family, name } = parts.firewall.table;
  const flags = owned ? ownerFlags(persists) : 0;
  const made = parts.firewallMessages.map((message) =>
    nftType(message) === NFT_MSG_NEWTABLE
      ? newTable({ ...decodeTable(message.body), flags })
      : message,
  );
  return [
    ...deleteTables(live, name),
    ...made,
    ...(closed ? closedMessages(parts) : []),
    ...(pending ? [newTable({ family, name: name + pendingSuffix, flags })] : []),
  ];
}
