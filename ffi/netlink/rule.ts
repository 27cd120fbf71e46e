/** Rules of policy routing by rtnetlink (`ip rule`; linux/fib_rules.h). Pure. */

import {
  FIB_RULE_INVERT,
  FR_ACT_TO_TBL,
  FRA_DPORT_RANGE,
  FRA_DST,
  FRA_FWMARK,
  FRA_FWMASK,
  FRA_GOTO,
  FRA_IIFNAME,
  FRA_IP_PROTO,
  FRA_L3MDEV,
  FRA_OIFNAME,
  FRA_PRIORITY,
  FRA_PROTOCOL,
  FRA_SPORT_RANGE,
  FRA_SRC,
  FRA_SUPPRESS_PREFIXLEN,
  FRA_TABLE,
  FRA_UID_RANGE,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RT_TABLE_UNSPEC,
  RTM_DELRULE,
  RTM_GETRULE,
  RTM_NEWRULE,
} from "./constants.ts";
import { decodePrefix, type Prefix } from "./route.ts";
import { Attributes, defined, HOST_ORDER, type Message, message, structOf } from "./wire.ts";

/** `struct fib_rule_hdr` (linux/fib_rules.h). */
const fib_rule_hdr = {
  size: 12,
  family: 0,
  dst_len: 1,
  src_len: 2,
  table: 4,
  action: 7,
  flags: 8,
} as const;

/** First and last number of a range, both within. */
export type Range = readonly [first: number, last: number];

/** A rule that chooses the routing table of a packet. Absent members match everything. */
export interface Rule {
  /** AF_INET or AF_INET6. */
  readonly family: number;
  /** Rules are tried in ascending order. Without one a rule can be added twice. */
  readonly priority?: number;
  /** Absent for FR_ACT_TO_TBL, which looks the packet up in `table`. */
  readonly action?: number;
  /** 0 for actions without a table. */
  readonly table: number;
  /** RTPROT_*: who made it; a tag to find one's own rules by. */
  readonly protocol?: number;
  /** The firewall mark, compared under `mask`; the kernel takes 0xffffffff for no mask. */
  readonly mark?: number;
  readonly mask?: number;
  readonly source?: Prefix;
  readonly destination?: Prefix;
  readonly iif?: string;
  readonly oif?: string;
  /** Matches what the selectors do not. */
  readonly invert?: true;
  readonly ipProtocol?: number;
  readonly sourcePorts?: Range;
  readonly destinationPorts?: Range;
  readonly uids?: Range;
  /** The priority to go on from, of FR_ACT_GOTO. */
  readonly goto?: number;
  /** Ignores routes of this prefix length and less. */
  readonly suppressPrefixLength?: number;
  readonly l3mdev?: true;
}

/** Adds a rule: EEXIST when one with the same selectors and priority is there. */
export function newRule(rule: Rule): Message {
  return encode("RTM_NEWRULE", RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule);
}

/** Removes the first rule that has all of these: ENOENT when there is none. */
export function deleteRule(rule: Rule): Message {
  return encode("RTM_DELRULE", RTM_DELRULE, 0, rule);
}

/** Asks for the rules of one family. */
export function dumpRules(family: number): Message {
  return message("RTM_GETRULE", RTM_GETRULE, NLM_F_DUMP, (to) => {
    to.struct(fib_rule_hdr.size).setUint8(fib_rule_hdr.family, family);
  });
}

function encode(operation: string, type: number, flags: number, rule: Rule): Message {
  return message(operation, type, flags, (to) => {
    const header = to.struct(fib_rule_hdr.size);
    header.setUint8(fib_rule_hdr.family, rule.family);
    header.setUint8(fib_rule_hdr.dst_len, rule.destination?.length ?? 0);
    header.setUint8(fib_rule_hdr.src_len, rule.source?.length ?? 0);
    header.setUint8(fib_rule_hdr.table, rule.table < 256 ? rule.table : RT_TABLE_UNSPEC);
    header.setUint8(fib_rule_hdr.action, rule.action ?? FR_ACT_TO_TBL);
    header.setUint32(fib_rule_hdr.flags, rule.invert ? FIB_RULE_INVERT : 0, HOST_ORDER);
    if (rule.source !== undefined) to.bytes(FRA_SRC, rule.source.address);
    if (rule.destination !== undefined) to.bytes(FRA_DST, rule.destination.address);
    if (rule.priority !== undefined) to.u32(FRA_PRIORITY, rule.priority);
    if (rule.mark !== undefined) to.u32(FRA_FWMARK, rule.mark);
    if (rule.mask !== undefined) to.u32(FRA_FWMASK, rule.mask);
    if (rule.iif !== undefined) to.cstring(FRA_IIFNAME, rule.iif);
    if (rule.oif !== undefined) to.cstring(FRA_OIFNAME, rule.oif);
    if (rule.uids !== undefined) to.bytes(FRA_UID_RANGE, encodeRange(rule.uids, 4));
    if (rule.ipProtocol !== undefined) to.u8(FRA_IP_PROTO, rule.ipProtocol);
    if (rule.sourcePorts !== undefined) to.bytes(FRA_SPORT_RANGE, encodeRange(rule.sourcePorts, 2));
    if (rule.destinationPorts !== undefined) {
      to.bytes(FRA_DPORT_RANGE, encodeRange(rule.destinationPorts, 2));
    }
    if (rule.table >= 256) to.u32(FRA_TABLE, rule.table);
    if (rule.suppressPrefixLength !== undefined) {
      to.u32(FRA_SUPPRESS_PREFIXLEN, rule.suppressPrefixLength);
    }
    if (rule.goto !== undefined) to.u32(FRA_GOTO, rule.goto);
    if (rule.l3mdev) to.u8(FRA_L3MDEV, 1);
    if (rule.protocol !== undefined) to.u8(FRA_PROTOCOL, rule.protocol);
  });
}

/**
 * Decodes the body of RTM_NEWRULE.
 * @throws WireError
 */
export function decodeRule(body: Uint8Array): Rule {
  const header = structOf(body, fib_rule_hdr.size);
  const attributes = new Attributes(body, fib_rule_hdr.size);
  const action = header.getUint8(fib_rule_hdr.action);
  const invert = header.getUint32(fib_rule_hdr.flags, HOST_ORDER) & FIB_RULE_INVERT;
  const suppressed = attributes.u32(FRA_SUPPRESS_PREFIXLEN);
  return defined({
    family: header.getUint8(fib_rule_hdr.family),
    priority: attributes.u32(FRA_PRIORITY),
    action: action === FR_ACT_TO_TBL ? undefined : action,
    table: attributes.u32(FRA_TABLE) ?? header.getUint8(fib_rule_hdr.table),
    protocol: attributes.u8(FRA_PROTOCOL),
    mark: attributes.u32(FRA_FWMARK),
    mask: attributes.u32(FRA_FWMASK),
    source: decodePrefix(attributes, FRA_SRC, header.getUint8(fib_rule_hdr.src_len)),
    destination: decodePrefix(attributes, FRA_DST, header.getUint8(fib_rule_hdr.dst_len)),
    iif: attributes.string(FRA_IIFNAME),
    oif: attributes.string(FRA_OIFNAME),
    invert: invert ? (true as const) : undefined,
    ipProtocol: attributes.u8(FRA_IP_PROTO),
    sourcePorts: decodeRange(attributes.bytes(FRA_SPORT_RANGE), 2),
    destinationPorts: decodeRange(attributes.bytes(FRA_DPORT_RANGE), 2),
    uids: decodeRange(attributes.bytes(FRA_UID_RANGE), 4),
    goto: attributes.u32(FRA_GOTO),
    // The kernel dumps -1 for "suppresses nothing".
    suppressPrefixLength: suppressed === 0xffff_ffff ? undefined : suppressed,
    l3mdev: attributes.u8(FRA_L3MDEV) ? (true as const) : undefined,
  });
}

/** `struct fib_rule_port_range` (2 bytes a number) and `fib_rule_uid_range` (4), host order. */
function encodeRange([first, last]: Range, width: 2 | 4): Uint8Array {
  const view = new DataView(new ArrayBuffer(2 * width));
  if (width === 2) {
    view.setUint16(0, first, HOST_ORDER);
    view.setUint16(2, last, HOST_ORDER);
  } else {
    view.setUint32(0, first, HOST_ORDER);
    view.setUint32(4, last, HOST_ORDER);
  }
  return new Uint8Array(view.buffer);
}

function decodeRange(bytes: Uint8Array | undefined, width: 2 | 4): Range | undefined {
  if (bytes === undefined) return undefined;
  const view = structOf(bytes, 2 * width);
  if (width === 2) return [view.getUint16(0, HOST_ORDER), view.getUint16(2, HOST_ORDER)];
  return [view.getUint32(0, HOST_ORDER), view.getUint32(4, HOST_ORDER)];
}
