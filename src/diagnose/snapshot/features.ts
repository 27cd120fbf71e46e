/**
 * Finds out what this kernel can do by doing it, in a network namespace that nothing else sees
 * and that is gone when its descriptor is closed.
 */

import {
  AF_INET,
  IP_TRANSPARENT,
  IPPROTO_IP,
  IPPROTO_TCP,
  SOCK_CLOEXEC,
  SOCK_STREAM,
} from "../../../ffi/constants.ts";
import { SyscallError } from "../../../ffi/errno.ts";
import {
  NETLINK_NETFILTER,
  NF_ACCEPT,
  NF_INET_PRE_ROUTING,
  NF_IP_PRI_MANGLE,
  NFPROTO_INET,
  NFPROTO_IPV4,
  NFT_TABLE_F_OWNER,
  NFTA_RULE_COMPAT,
  NFTA_RULE_COMPAT_FLAGS,
  NFTA_RULE_COMPAT_PROTO,
  NLA_F_NESTED,
} from "../../../ffi/netlink/constants.ts";
import { newChain } from "../../../ffi/netlink/nftables/chain.ts";
import type { CompatExtension } from "../../../ffi/netlink/nftables/expr/compat.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import { newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  localDestination,
  protocol,
  tproxyTo,
  transparentSocket,
} from "../../../ffi/netlink/nftables/statements.ts";
import { newTable } from "../../../ffi/netlink/nftables/table.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { Writer } from "../../../ffi/netlink/wire.ts";
import { NetworkNamespace } from "../../../ffi/netns.ts";
import * as sys from "../../../ffi/sys.ts";

export const featureNames = [
  "nf_tables",
  "nft tproxy",
  "nft socket",
  "nft fib",
  "nft owner",
  "xt_TPROXY",
  "xt_socket",
  "IP_TRANSPARENT",
] as const;
export type FeatureName = (typeof featureNames)[number];

/** A feature's presence, or why it could not be tried. The reason of an absence is the kernel's. */
export type Features =
  | { readonly kind: "tested"; readonly missing: ReadonlyMap<FeatureName, string> }
  | { readonly kind: "untested"; readonly reason: string };

/** Tries every feature. Never touches the namespace that this is called in. */
export function testFeatures(): Features {
  let namespace: NetworkNamespace;
  try {
    namespace = NetworkNamespace.create();
  } catch (error) {
    if (error instanceof SyscallError) return { kind: "untested", reason: error.code };
    throw error;
  }
  try {
    const missing = namespace.run(tryAll);
    // A call that is not permitted does not show that the feature is missing.
    const isAllowed = ![...missing.values()].includes("EPERM");
    return isAllowed ? { kind: "tested", missing } : { kind: "untested", reason: "EPERM" };
  } finally {
    namespace.close();
  }
}

function tryAll(): Map<FeatureName, string> {
  const missing = new Map<FeatureName, string>();
  const refused = (name: FeatureName, make: () => void): boolean => {
    try {
      make();
      return false;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      missing.set(name, error.code);
      return true;
    }
  };
  const fd = sys.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const set = fd < 0 ? fd : sys.setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
  if (fd >= 0) sys.close(fd);
  refused("IP_TRANSPARENT", () => {
    if (set < 0) throw new SyscallError("setsockopt", -set as never, "IP_TRANSPARENT");
  });
  using netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
  if (refused("nf_tables", () => makeChain(netfilter, NFPROTO_INET))) {
    for (const name of featureNames) {
      if (name.startsWith("nft ")) missing.set(name, "no nf_tables");
    }
    return missing;
  }
  const owned = { family: NFPROTO_INET, name: "owned", flags: NFT_TABLE_F_OWNER };
  refused("nft owner", () => void netfilter.batch([newTable(owned)]));
  refused("nft fib", () => addRule(netfilter, NFPROTO_INET, localDestination()));
  refused("nft socket", () => addRule(netfilter, NFPROTO_INET, transparentSocket(false)));
  refused("nft tproxy", () =>
    addRule(netfilter, NFPROTO_INET, [...protocol(IPPROTO_TCP), ...tproxyTo(1)]),
  );
  // iptables-nft makes these of `-j TPROXY` and `-m socket`: struct xt_tproxy_target_info_v1,
  // 28 bytes, and struct xt_socket_mtinfo3, 1 byte.
  refused("xt_TPROXY", () => {
    makeChain(netfilter, NFPROTO_IPV4);
    addRule(netfilter, NFPROTO_IPV4, [...protocol(IPPROTO_TCP), compat("target", "TPROXY", 1, 28)]);
  });
  refused("xt_socket", () => {
    addRule(netfilter, NFPROTO_IPV4, [...protocol(IPPROTO_TCP), compat("match", "socket", 3, 1)]);
  });
  return missing;
}

const table = "mangle";
const chain = "PREROUTING";

function makeChain(netfilter: NetlinkSocket, family: number): void {
  const base = {
    type: "filter",
    hook: NF_INET_PRE_ROUTING,
    priority: NF_IP_PRI_MANGLE,
    policy: NF_ACCEPT,
  };
  netfilter.batch([
    newTable({ family, name: table }),
    newChain({ family, table, name: chain, base }),
  ]);
}

function addRule(netfilter: NetlinkSocket, family: number, expressions: readonly Expression[]) {
  const rule = newFirewallRule({ family, table, chain, expressions });
  const body = Buffer.concat([rule.body, compatAttribute()]);
  netfilter.batch([family === NFPROTO_IPV4 ? { ...rule, body } : rule]);
}

/** NFTA_RULE_COMPAT: extensions of iptables require that the rule names TCP. */
function compatAttribute(): Uint8Array {
  const to = new Writer();
  to.nest(NFTA_RULE_COMPAT | NLA_F_NESTED, () => {
    to.be32(NFTA_RULE_COMPAT_PROTO, IPPROTO_TCP);
    to.be32(NFTA_RULE_COMPAT_FLAGS, 0);
  });
  return to.finish();
}

/** An extension of iptables with zeroed settings, aligned to 8 as nft_compat.c wants it. */
function compat<Kind extends "match" | "target">(
  kind: Kind,
  name: string,
  revision: number,
  size: number,
): CompatExtension<Kind> {
  return { kind, name, revision, info: new Uint8Array(Math.ceil(size / 8) * 8) };
}
