/** A packet's way through the hooks of this host, and the answer's. Pure. */

import {
  NF_INET_FORWARD,
  NF_INET_LOCAL_IN,
  NF_INET_LOCAL_OUT,
  NF_INET_POST_ROUTING,
  NF_INET_PRE_ROUTING,
} from "../../../ffi/netlink/constants.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { Packet } from "../packet.ts";
import type { Surroundings } from "./context.ts";
import { type Doubt, type Hook, passHook, type Trace } from "./hooks.ts";
import { freshState, type PacketState } from "./state.ts";

/** The ways of a packet: the best one, and all others if rules leave a doubt. */
export interface PacketTrace extends Trace {
  readonly others: readonly Trace[];
}

/** How good a way is: the larger number is the better one, and 0 is not what was wanted. */
export type Rank = (trace: Trace) => number;

/** Whether it is accepted; for hooks that are to do nothing but that. */
export function isAccepted({ verdict }: Trace): number {
  return Number(verdict === "accept");
}

/** Whether the packet certainly has the bits of a mark. */
export function hasMark({ mark, markKnown }: PacketState, { value, mask }: MaskedMark): boolean {
  return (mark & mask) >>> 0 === value && (markKnown & mask) >>> 0 === mask >>> 0;
}

/** Sends a packet through hooks, one after the other. */
function passHooks(
  surroundings: Surroundings,
  packet: Packet,
  hooks: readonly Hook[],
  state: PacketState,
  rank: Rank = isAccepted,
): PacketTrace {
  let live: readonly PacketState[] = [state];
  const dropped: Trace[] = [];
  let accepted: readonly Trace[] = [];
  for (const hook of hooks) {
    const traces = passHook(surroundings, packet, hook, live);
    dropped.push(...traces.filter(({ verdict }) => verdict === "drop"));
    accepted = traces.filter(({ verdict }) => verdict === "accept");
    live = accepted;
  }
  const [best, ...others] = [...accepted, ...dropped].toSorted((a, b) => {
    return rank(b) - rank(a) || a.doubts.length - b.doubts.length;
  });
  if (best === undefined) throw new Error("a packet without an end");
  return { ...best, others };
}

/** The hooks of a packet that comes in, until it is routed. */
export function passIn(
  surroundings: Surroundings,
  packet: Packet,
  state: PacketState,
  rank: Rank,
): PacketTrace {
  return passHooks(surroundings, packet, ["ingress", NF_INET_PRE_ROUTING], state, rank);
}

/** The hook before a local socket. */
export function passInput(
  surroundings: Surroundings,
  packet: Packet,
  state: PacketState,
): PacketTrace {
  return passHooks(surroundings, packet, [NF_INET_LOCAL_IN], state);
}

/** The hook of a packet that goes on to another host. */
export function passForward(
  surroundings: Surroundings,
  packet: Packet,
  state: PacketState,
): PacketTrace {
  return passHooks(surroundings, packet, [NF_INET_FORWARD], state);
}

/** The hook behind a local socket; the packet may be routed anew after it. */
export function passOutput(
  surroundings: Surroundings,
  packet: Packet,
  state: PacketState,
  rank?: Rank,
): PacketTrace {
  return passHooks(surroundings, packet, [NF_INET_LOCAL_OUT], state, rank);
}

/** The hooks of a packet that leaves, once its route is known. */
export function passOut(
  surroundings: Surroundings,
  packet: Packet,
  state: PacketState,
): PacketTrace {
  return passHooks(surroundings, packet, [NF_INET_POST_ROUTING, "egress"], state);
}

/** The state that a packet keeps from one hook to the next, without the doubts of the first. */
export function carried(trace: Trace, mark = trace.mark): PacketState {
  const { ctMark, ctMarkKnown, untracked, rewritten } = trace;
  return { ...freshState(mark), ctMark, ctMarkKnown, untracked, rewritten };
}

/** The rules on which it depends whether all goes well, when it may. */
export function doubtsOf(passage: PacketTrace, rank: Rank = isAccepted): readonly Doubt[] {
  const wanted = rank(passage);
  const worse = passage.others.filter((each) => rank(each) < wanted);
  return worse.flatMap(({ doubts }) => doubts);
}

/** Whether a rule of a chain that routes anew has changed the mark. */
export function isRerouted(surroundings: Surroundings, before: number, trace: Trace): boolean {
  if (trace.mark === before) return false;
  const bases = trace.marking.map(({ base }) => base);
  return surroundings.ruleset.chains.some(({ base, table, name }) => {
    return base?.type === "route" && bases.some((each) => each?.endsWith(` ${table} ${name}`));
  });
}
