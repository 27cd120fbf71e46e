/** The conditions of bind: each decides as the kernel's source has it. */

import { describe, expect, test } from "bun:test";
import { AF_INET, AF_INET6 } from "../../../../ffi/constants.ts";
import {
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_MULTICAST,
  RTN_UNICAST,
} from "../../../../ffi/netlink/constants.ts";
import { type InetSocket, TCP_LISTEN } from "../../../../ffi/netlink/diag.ts";
import { type BindFacts, explainBind } from "../../../../src/diagnose/explain/bind.ts";
import { parseAddress } from "../../../../src/net/address.ts";
import { ip } from "../../../helpers/addresses.ts";

const plain: BindFacts = {
  address: { family: 4, bytes: ip("8.8.8.8") },
  port: 8080,
  protocol: "tcp",
  transparent: false,
  freebind: false,
  capabilities: new Set(),
  nonlocalBind: false,
  unprivilegedPortStart: 1024,
  addressType: RTN_UNICAST,
  hasAddress: false,
  sockets: [],
};
const of = (text: string) => {
  const parsed = parseAddress(text, { zone: true });
  if (!parsed.ok) throw new Error(parsed.error);
  return { address: parsed.value };
};
const admin = { capabilities: new Set(["CAP_NET_ADMIN"]) };
const listener = (family: number, local: string, v6only?: boolean): InetSocket => ({
  family,
  state: TCP_LISTEN,
  local: ip(local),
  localPort: 8080,
  remote: ip(local),
  remotePort: 0,
  device: 0,
  uid: 0,
  inode: 9,
  ...(v6only === undefined ? {} : { v6only }),
});

const table: [name: string, changes: Partial<BindFacts>, conclusion: RegExp][] = [
  [
    "foreign, with nothing",
    {},
    /EADDRNOTAVAIL, because 8\.8\.8\.8 is not this host's, and neither/,
  ],
  ["foreign, transparent", { transparent: true, ...admin }, /will work: .*has IP_TRANSPARENT/],
  ["transparent without the capability", { transparent: true }, /EPERM, because IP_TRANSPARENT/],
  [
    "CAP_NET_RAW is enough",
    { transparent: true, capabilities: new Set(["CAP_NET_RAW"]) },
    /will work/,
  ],
  ["freebind", { freebind: true }, /will work: .*IP_FREEBIND \(which lets it bind, but not send/],
  ["ip_nonlocal_bind", { nonlocalBind: true }, /will work: .*ip_nonlocal_bind is 1/],
  ["its own", { addressType: RTN_LOCAL }, /will work: .*8\.8\.8\.8 is this host's/],
  ["multicast", { addressType: RTN_MULTICAST }, /will work: .*RTN_MULTICAST/],
  ["lo never up", { addressType: RTN_BROADCAST }, /will work: .*RTN_BROADCAST/],
  ["every address", { address: undefined }, /will work: .*every address of this host/],
  ["a low port", { addressType: RTN_LOCAL, port: 80 }, /EACCES, because port 80 needs/],
  ["port 0", { addressType: RTN_LOCAL, port: 0 }, /will work/],
  ["held", { addressType: RTN_LOCAL, sockets: [listener(AF_INET, "0.0.0.0")] }, /EADDRINUSE/],
  [
    "held by IPv6 too",
    { addressType: RTN_LOCAL, sockets: [listener(AF_INET6, "::", false)] },
    /EADDRINUSE/,
  ],
  [
    "held by IPv6 alone",
    { addressType: RTN_LOCAL, sockets: [listener(AF_INET6, "::", true)] },
    /will work/,
  ],
  [
    "another address of it held",
    { addressType: RTN_LOCAL, sockets: [listener(AF_INET, "8.8.4.4")] },
    /will work/,
  ],
  ["IPv6, foreign", of("2001:db8::1"), /EADDRNOTAVAIL, because 2001:db8::1 is not this host's/],
  ["IPv6, its own", { ...of("2001:db8::1"), hasAddress: true }, /will work: .*is this host's/],
  ["IPv6, transparent", { ...of("2001:db8::1"), transparent: true, ...admin }, /will work/],
  [
    "IPv6, link-local without its interface",
    of("fe80::1"),
    /EINVAL, because fe80::1 is link-local/,
  ],
  ["IPv6, link-local", { ...of("fe80::1%eth0"), hasAddress: true }, /will work/],
  ["IPv6 multicast for a stream", of("ff02::1"), /EINVAL, because ff02::1 is multicast/],
  ["IPv6 multicast for datagrams", { ...of("ff02::1"), protocol: "udp" }, /will work/],
];

describe("explainBind", () => {
  test.each(table)("%s", (_, changes, conclusion) => {
    const explained = explainBind({ ...plain, ...changes });
    expect(explained.conclusion).toMatch(conclusion);
    expect(explained.works).toBe(explained.conclusion.startsWith("It will work"));
    expect(explained.steps.at(-1)?.severity).toBe(explained.works ? "ok" : "failure");
  });

  test("it shows every value of the condition", () => {
    const { steps } = explainBind(plain);
    expect(steps.at(-1)?.text).toStartWith(
      "inet_addr_type_table(8.8.8.8) = RTN_UNICAST; ip_nonlocal_bind = 0, freebind = 0, " +
        "transparent = 0",
    );
  });
});
