/** The kernel path's conditions, statements and objects as expressions of nf_tables. Pure. */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import * as nl from "../../../ffi/netlink/constants.ts";
import {
  newTimeoutObject,
  type tcpTimeouts,
  type udpTimeouts,
} from "../../../ffi/netlink/nftables/ct-timeout.ts";
import { bitwise } from "../../../ffi/netlink/nftables/expr/bitwise.ts";
import { compare, NFT_CMP_EQ, NFT_CMP_NEQ } from "../../../ffi/netlink/nftables/expr/cmp.ts";
import {
  conntrack,
  IP_CT_DIR_REPLY,
  IPS_ASSURED,
  IPS_DST_NAT,
  IPS_SRC_NAT,
  NFT_CT_MARK,
  NFT_CT_PROTO_SRC,
  NFT_CT_PROTOCOL,
  NFT_CT_SRC_IP,
  NFT_CT_SRC_IP6,
  NFT_CT_STATE,
  NFT_CT_STATUS,
} from "../../../ffi/netlink/nftables/expr/ct.ts";
import { flowOffload } from "../../../ffi/netlink/nftables/expr/flow-offload.ts";
import { jhash } from "../../../ffi/netlink/nftables/expr/hash.ts";
import { immediate, verdict } from "../../../ffi/netlink/nftables/expr/immediate.ts";
import { lookup, NFT_LOOKUP_F_INV } from "../../../ffi/netlink/nftables/expr/lookup.ts";
import { masquerade } from "../../../ffi/netlink/nftables/expr/masq.ts";
import { NFT_NAT_DNAT, NFT_NAT_SNAT, nat } from "../../../ffi/netlink/nftables/expr/nat.ts";
import { NFT_NG_INCREMENTAL, numgen } from "../../../ffi/netlink/nftables/expr/numgen.ts";
import { objectReference } from "../../../ffi/netlink/nftables/expr/objref.ts";
import {
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_PAYLOAD_TRANSPORT_HEADER,
  payload,
} from "../../../ffi/netlink/nftables/expr/payload.ts";
import {
  NFT_REJECT_ICMPX_UNREACH,
  NFT_REJECT_TCP_RST,
} from "../../../ffi/netlink/nftables/expr/reject.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { newFlowtable } from "../../../ffi/netlink/nftables/flowtable.ts";
import { hostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import {
  concatenated,
  deleteElements,
  newElements,
  newSet,
  type SetElement,
  TYPE_INET_SERVICE,
  TYPE_INTEGER,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../../ffi/netlink/nftables/set.ts";
import * as nft from "../../../ffi/netlink/nftables/statements.ts";
import { numberToEndpoint } from "../../../ffi/netlink/nftables/typeof.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import type { Family } from "../../net/address.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { FirewallRule, FlowMatch } from "./firewall-rule.ts";
import {
  type FlowEndpoint,
  type FlowObject,
  type FlowState,
  type FlowStatement,
  hashSeed,
} from "./flow-rule.ts";

type Inet = { readonly family: number; readonly table: string };

const nfproto = { 4: nl.NFPROTO_IPV4, 6: nl.NFPROTO_IPV6 } as const;
const addressBytes = { 4: 4, 6: 16 } as const;
/** Where the port of an endpoint is, when its address is in the first register. */
const portRegister = { 4: nl.NFT_REG32_01, 6: nl.NFT_REG_2 } as const;

/** NF_CT_STATE_BIT, NF_CT_STATE_INVALID_BIT (linux/netfilter/nf_conntrack_common.h). */
const stateBits: Readonly<Record<FlowState, number>> = {
  invalid: 1,
  established: 2,
  related: 4,
  new: 8,
};

/** `tcp flags & rst != 0`. */
const tcpReset: readonly Expression[] = [
  payload(NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1),
  bitwise(Uint8Array.of(0x04), Uint8Array.of(0)),
  compare(Uint8Array.of(0), NFT_CMP_NEQ),
];

/** `tcp sequence 0`: a reset that answers a SYN has nothing to count on (RFC 9293, 3.5.2). */
const sequenceZero: readonly Expression[] = [
  payload(NFT_PAYLOAD_TRANSPORT_HEADER, 4, 4),
  compare(Uint8Array.of(0, 0, 0, 0)),
];

/** `ct status & assured == 0`. */
const notAssured = noBit(NFT_CT_STATUS, IPS_ASSURED);

/** ICMPX's "port unreachable" (NFT_REJECT_ICMPX_PORT_UNREACH). */
const PORT_UNREACHABLE = 1;

/**
 * The expressions of a condition; `interfaces` makes those of a list of names, `positive` those of
 * a condition that is turned round.
 */
export function flowMatchExpressions(
  match: FlowMatch,
  { family }: FirewallRule,
  parts: {
    readonly syn: readonly Expression[];
    readonly outputInterfaces: (names: readonly string[]) => readonly Expression[];
    readonly positive: (match: Extract<FlowMatch, { kind: "except" }>["match"]) => Expression[];
  },
): readonly Expression[] {
  switch (match.kind) {
    case "flow-mark":
      return flowMark(match.mark);
    case "flow-state":
      return anyBit(
        NFT_CT_STATE,
        match.states.reduce((bits, state) => bits | stateBits[state], 0),
      );
    case "translated":
      return anyBit(NFT_CT_STATUS, IPS_DST_NAT);
    case "untranslated":
      return noBit(NFT_CT_STATUS, IPS_DST_NAT);
    case "source-translated":
      return anyBit(NFT_CT_STATUS, IPS_SRC_NAT);
    case "syn":
      return parts.syn;
    case "refusal":
      return [...tcpReset, ...sequenceZero, ...nft.replyDirection()];
    case "own-destination":
      return nft.localDestination();
    case "output-interface":
      return parts.outputInterfaces(match.names);
    case "from-endpoint":
      return [...loadSource(family), lookup({ name: match.set })];
    case "unestablished":
      return [
        conntrack(NFT_CT_PROTOCOL),
        compare(Uint8Array.of(IPPROTO_TCP)),
        ...notAssured,
        ...loadUpstream(family),
        lookup({ name: match.set }),
      ];
    case "except":
      return turned(parts.positive(match.match));
  }
}

function flowMark({ value, mask }: MaskedMark): Expression[] {
  const [load, zero] = [conntrack(NFT_CT_MARK), hostOrder32(0)];
  return [load, bitwise(hostOrder32(mask), zero), compare(hostOrder32(value))];
}

function noBit(key: number, bits: number): Expression[] {
  const zero = hostOrder32(0);
  return [conntrack(key), bitwise(hostOrder32(bits), zero), compare(zero)];
}

function anyBit(key: number, bits: number): Expression[] {
  const zero = hostOrder32(0);
  return [conntrack(key), bitwise(hostOrder32(bits), zero), compare(zero, NFT_CMP_NEQ)];
}

/** The source address and port, one behind the other. */
function loadSource(family: Family): Expression[] {
  return [
    payload(NFT_PAYLOAD_NETWORK_HEADER, family === 4 ? 12 : 8, addressBytes[family]),
    { ...payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2), dreg: portRegister[family] },
  ];
}

/** The same of the replies of a packet's connection: its upstream. */
function loadUpstream(family: Family): Expression[] {
  const [key, direction] = [family === 4 ? NFT_CT_SRC_IP : NFT_CT_SRC_IP6, IP_CT_DIR_REPLY];
  return [
    { ...conntrack(key), direction },
    { ...conntrack(NFT_CT_PROTO_SRC), direction, dreg: portRegister[family] },
  ];
}

/** The same conditions with the opposite end. */
function turned(expressions: readonly Expression[]): readonly Expression[] {
  return expressions.map((each, i) => {
    if (i < expressions.length - 1) return each;
    if (each.kind === "cmp" && each.op === NFT_CMP_EQ) return { ...each, op: NFT_CMP_NEQ };
    if (each.kind === "lookup") return { ...each, flags: NFT_LOOKUP_F_INV };
    throw new RangeError(`a condition that ends with ${each.kind} cannot be turned round`);
  });
}

/** The expressions of a statement. */
export function flowStatementExpressions(
  statement: FlowStatement,
  rule: FirewallRule,
): readonly Expression[] {
  const { family } = rule;
  switch (statement.kind) {
    case "mark-flow": {
      const { value, mask } = statement.mark;
      return [
        conntrack(NFT_CT_MARK),
        bitwise(hostOrder32(~mask), hostOrder32(value)),
        { kind: "ct set", key: NFT_CT_MARK, sreg: nl.NFT_REG_1 },
      ];
    }
    case "flow-timeout":
      return [objectReference(nl.NFT_OBJECT_CT_TIMEOUT, statement.name)];
    case "to-upstream":
      return [
        ...slotNumber(statement, family),
        { ...lookup({ name: statement.map }), dreg: nl.NFT_REG_1 },
        nat(NFT_NAT_DNAT, nfproto[family], nl.NFT_REG_1, portRegister[family]),
      ];
    case "from-address": {
      const { address } = statement;
      const own = payload(NFT_PAYLOAD_NETWORK_HEADER, family === 4 ? 12 : 8, addressBytes[family]);
      const load = address === undefined ? own : immediate(address.bytes);
      return [load, nat(NFT_NAT_SNAT, nfproto[family], nl.NFT_REG_1)];
    }
    case "masquerade":
      return [masquerade()];
    case "reject": {
      const isTcp = rule.matches.some(
        (each) => each.kind === "protocol" && each.protocol === "tcp",
      );
      if (isTcp) return [{ kind: "reject", type: NFT_REJECT_TCP_RST }];
      return [{ kind: "reject", type: NFT_REJECT_ICMPX_UNREACH, code: PORT_UNREACHABLE }];
    }
    case "drop":
      return [verdict(nl.NF_DROP)];
    case "offload":
      return [flowOffload(statement.flowtable)];
  }
}

function slotNumber(
  { slots, choice }: Extract<FlowStatement, { kind: "to-upstream" }>,
  family: Family,
): Expression[] {
  if (choice === "turn") return [numgen(slots, NFT_NG_INCREMENTAL)];
  const bytes = addressBytes[family];
  const client = payload(NFT_PAYLOAD_NETWORK_HEADER, family === 4 ? 12 : 8, bytes);
  return [{ ...client, dreg: nl.NFT_REG_2 }, jhash(bytes, slots, hashSeed)];
}

/** The messages that make an object, with all that is in it. */
export function flowObjectMessages(inet: Inet, object: FlowObject): Message[] {
  const reference = { ...inet, name: object.name };
  switch (object.kind) {
    case "slots": {
      const { family, slots } = object;
      const map = newSet({
        ...{ ...reference, flags: nl.NFT_SET_MAP, keyType: TYPE_INTEGER, keyLength: 4 },
        ...{ dataType: endpointType[family], dataLength: endpointBytes(family) },
        userData: numberToEndpoint(slots.length, family),
      });
      const elements = slots.flatMap((upstream, slot) =>
        upstream === undefined ? [] : [slotElement(slot, upstream)],
      );
      return [map, ...newElements(reference, elements)];
    }
    case "endpoints": {
      const { family, endpoints } = object;
      const keyLength = endpointBytes(family);
      const set = newSet({ ...reference, keyType: endpointType[family], keyLength });
      return [set, ...newElements(reference, endpoints.map(endpointElement))];
    }
    case "timeouts": {
      const network = nfproto[object.family];
      return [newTimeoutObject({ ...reference, network, ...timeoutsOf(object) })];
    }
    case "flowtable": {
      const { devices } = object;
      return [
        newFlowtable({ ...reference, devices, priority: 0, flags: nl.NFT_FLOWTABLE_COUNTER }),
      ];
    }
  }
}

/** The messages that make one object into another of its kind and name. */
export function objectChanges(inet: Inet, from: FlowObject, to: FlowObject): Message[] {
  const reference = { ...inet, name: to.name };
  if (from.kind === "slots" && to.kind === "slots") {
    const changed = to.slots.flatMap((upstream, slot) =>
      isSameEndpoint(upstream, from.slots[slot]) ? [] : [{ slot, upstream, old: from.slots[slot] }],
    );
    return [
      ...deleteElements(
        reference,
        changed.flatMap(({ slot, old }) => (old === undefined ? [] : [slotKey(slot)])),
      ),
      ...newElements(
        reference,
        changed.flatMap(({ slot, upstream }) =>
          upstream === undefined ? [] : [slotElement(slot, upstream)],
        ),
      ),
    ];
  }
  if (from.kind === "endpoints" && to.kind === "endpoints") {
    const without = (all: readonly FlowEndpoint[], others: readonly FlowEndpoint[]) =>
      all.filter((each) => !others.some((other) => isSameEndpoint(each, other)));
    const [gone, added] = [
      without(from.endpoints, to.endpoints),
      without(to.endpoints, from.endpoints),
    ];
    return [
      ...deleteElements(reference, gone.map(endpointElement)),
      ...newElements(reference, added.map(endpointElement)),
    ];
  }
  return [];
}

function isSameEndpoint(a: FlowEndpoint | undefined, b: FlowEndpoint | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.port === b.port && Buffer.compare(a.address.bytes, b.address.bytes) === 0;
}

const endpointType = {
  4: concatenated(TYPE_IPADDR, TYPE_INET_SERVICE),
  6: concatenated(TYPE_IP6ADDR, TYPE_INET_SERVICE),
} as const;

/** Each part of a concatenation takes whole words. */
function endpointBytes(family: Family): number {
  return addressBytes[family] + 4;
}

function slotKey(slot: number): SetElement {
  return { key: hostOrder32(slot) };
}

function slotElement(slot: number, upstream: FlowEndpoint): SetElement {
  return { ...slotKey(slot), data: endpointElement(upstream).key };
}

function endpointElement({ address, port }: FlowEndpoint): SetElement {
  return { key: Uint8Array.of(...address.bytes, port >> 8, port & 0xff, 0, 0) };
}

const tcpStates = {
  syn_sent: "synSent",
  established: "established",
  fin_wait: "finWait",
  close_wait: "closeWait",
  last_ack: "lastAck",
  time_wait: "timeWait",
  close: "close",
} as const satisfies Record<string, keyof typeof tcpTimeouts>;
const udpStates = {
  unreplied: "unreplied",
  replied: "replied",
} as const satisfies Record<string, keyof typeof udpTimeouts>;

function timeoutsOf({ protocol, seconds }: Extract<FlowObject, { kind: "timeouts" }>) {
  const states: Readonly<Record<string, string>> = protocol === "tcp" ? tcpStates : udpStates;
  const policy = Object.entries(seconds).map(([state, value]) => [states[state], value]);
  const number = protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
  return { protocol: number, policy: Object.fromEntries(policy) };
}
