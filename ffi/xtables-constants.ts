/**
 * Constants of x_tables (iptables) in their headers' spelling, grouped by header, and the layouts
 * of its entries. `test/unit/abi.test.ts` compares every one with what a C program prints.
 */

// linux/netfilter/x_tables.h
export const XT_INV_PROTO = 0x40;
export const XT_RETURN = -5;
export const XT_ERROR_TARGET = "ERROR";

// linux/netfilter_ipv4/ip_tables.h
export const IPT_F_FRAG = 0x01;
export const IPT_F_GOTO = 0x02;
export const IPT_INV_VIA_IN = 0x01;
export const IPT_INV_VIA_OUT = 0x02;
export const IPT_INV_SRCIP = 0x08;
export const IPT_INV_DSTIP = 0x10;
export const IPT_INV_FRAG = 0x20;
export const IPT_SO_GET_INFO = 64;
export const IPT_SO_GET_ENTRIES = 65;

// linux/netfilter_ipv6/ip6_tables.h
export const IP6T_F_GOTO = 0x04;

// linux/netfilter/xt_*.h
export const XT_ADDRTYPE_INVERT_SOURCE = 0x1;
export const XT_ADDRTYPE_INVERT_DEST = 0x2;
export const XT_ADDRTYPE_LIMIT_IFACE_IN = 0x4;
export const XT_ADDRTYPE_LIMIT_IFACE_OUT = 0x8;
export const XT_CONNLIMIT_INVERT = 1;
export const XT_CONNMARK_SET = 0;
export const XT_CONNMARK_SAVE = 1;
export const XT_CONNTRACK_STATE = 0x1;
export const XT_CONNTRACK_STATUS = 0x40;
export const XT_CONNTRACK_DIRECTION = 0x1000;
export const XT_CONNTRACK_STATE_SNAT = 0x40;
export const XT_CONNTRACK_STATE_DNAT = 0x80;
export const XT_CONNTRACK_STATE_UNTRACKED = 0x100;
export const XT_CT_NOTRACK = 0x1;
export const XT_HASHLIMIT_INVERT = 0x10;
export const XT_OWNER_UID = 0x1;
export const XT_OWNER_GID = 0x2;
export const XT_OWNER_SOCKET = 0x4;
export const XT_PHYSDEV_OP_MASK = 0x1f;
export const XT_POLICY_MATCH_NONE = 0x4;
export const XT_RPFILTER_LOOSE = 0x1;
export const XT_RPFILTER_VALID_MARK = 0x2;
export const XT_RPFILTER_ACCEPT_LOCAL = 0x4;
export const XT_RPFILTER_INVERT = 0x8;
export const XT_SOCKET_TRANSPARENT = 0x1;
export const XT_SOCKET_NOWILDCARD = 0x2;

/** Where an entry has its conditions, its target and its end: IPv4's first. */
export const ipt_ip = {
  size: 84,
  src: 0,
  iniface: 16,
  proto: 80,
  flags: 82,
  invflags: 83,
} as const;
export const ipt_entry = { size: 112, target_offset: 88, next_offset: 90 } as const;
export const ip6t_ip6 = {
  size: 136,
  src: 0,
  iniface: 64,
  proto: 128,
  flags: 131,
  invflags: 132,
} as const;
export const ip6t_entry = { size: 168, target_offset: 140, next_offset: 142 } as const;
/** The header of a match and of a target, before the extension's own structure. */
export const xt_entry_match = { size: 32, match_size: 0, name: 2, revision: 31 } as const;
