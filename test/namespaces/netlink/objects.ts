/** Run by `../netlink.test.ts` in a namespace of its own: what is sent is what is there. */

import { beforeAll, expect, test } from "bun:test";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import {
  EADDRNOTAVAIL,
  EEXIST,
  EINVAL,
  ENETUNREACH,
  ENODEV,
  ENOENT,
  SyscallError,
} from "../../../ffi/errno.ts";
import {
  decodeAddress,
  deleteAddress,
  dumpAddresses,
  type InterfaceAddress,
  newAddress,
} from "../../../ffi/netlink/address.ts";
import {
  IFA_F_NODAD,
  IFA_F_PERMANENT,
  NETLINK_ROUTE,
  RT_TABLE_MAIN,
  RTM_F_CLONED,
  RTM_F_FIB_MATCH,
  RTN_LOCAL,
  RTN_UNICAST,
  RTPROT_STATIC,
} from "../../../ffi/netlink/constants.ts";
import { decodeLink, getLink, newVeth, setLink } from "../../../ffi/netlink/link.ts";
import {
  decodeRoute,
  deleteRoute,
  dumpRoutes,
  getRoute,
  newRoute,
  type Route,
} from "../../../ffi/netlink/route.ts";
import {
  decodeRule,
  deleteRule,
  dumpRules,
  newRule,
  type Rule,
} from "../../../ffi/netlink/rule.ts";
import { NetlinkError, NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { ip, prefix } from "../../helpers/addresses.ts";
import { testWith } from "../../helpers/tools.ts";

const socket = NetlinkSocket.open(NETLINK_ROUTE);
let index = 0;

const json = async (...command: string[]) => JSON.parse(await Bun.$`${command}`.text());
const routesOf = (family: number, table: number) =>
  socket.dump(dumpRoutes(family, table), decodeRoute);
const rulesOf = (family: number) => socket.dump(dumpRules(family), decodeRule);

/** What the kernel says to a request that it refuses. */
function refusal(request: Message): NetlinkError {
  try {
    socket.request(request);
  } catch (error) {
    if (error instanceof NetlinkError) return error;
    throw error;
  }
  throw new Error(`${request.operation} was not refused`);
}

beforeAll(() => {
  socket.request(newVeth("veth0", "veth1"));
  for (const name of ["lo", "veth1", "veth0"]) {
    ({ index } = socket.get(getLink({ name }), decodeLink));
    socket.request(setLink(index, { up: true }));
  }
  socket.request(newAddress({ index, address: ip("192.0.2.1"), prefixLength: 24 }));
  const flags = IFA_F_NODAD;
  socket.request(newAddress({ index, address: ip("2001:db8::1"), prefixLength: 64, flags }));
});

test("addresses", () => {
  const added: InterfaceAddress[] = [
    { index, address: ip("198.51.100.1"), prefixLength: 32, peer: ip("198.51.100.2") },
    { index, address: ip("198.51.100.9"), prefixLength: 24, broadcast: ip("198.51.100.255") },
    { index, address: ip("2001:db8:1::1"), prefixLength: 64, flags: IFA_F_NODAD },
  ];
  const listed = () => socket.dump(dumpAddresses(), decodeAddress);
  const before = listed();
  for (const address of added) socket.request(newAddress(address));
  for (const { flags = 0, ...address } of added) {
    const expected = { ...address, flags: flags | IFA_F_PERMANENT };
    expect(listed()).toContainEqual(expect.objectContaining(expected));
    expect(refusal(newAddress({ ...address, flags })).errno as number).toBe(EEXIST);
  }
  expect(socket.dump(dumpAddresses(AF_INET6), decodeAddress).length).toBeLessThan(listed().length);
  for (const address of added) socket.request(deleteAddress(address));
  expect(listed()).toEqual(before);
  expect(refusal(deleteAddress(added[0] as InterfaceAddress)).errno as number).toBe(EADDRNOTAVAIL);
});

test("routes", () => {
  const tag = 99;
  const local = { type: RTN_LOCAL, table: 1000, protocol: tag, oif: 1 };
  const added: Route[] = [
    { ...local, family: AF_INET },
    { ...local, family: AF_INET6, priority: 1024 },
    {
      family: AF_INET,
      type: RTN_UNICAST,
      table: 1000,
      protocol: tag,
      destination: prefix("203.0.113.0/24"),
      gateway: ip("192.0.2.2"),
      preferredSource: ip("192.0.2.1"),
      oif: index,
      priority: 7,
    },
    {
      family: AF_INET6,
      type: RTN_UNICAST,
      table: 100,
      protocol: tag,
      destination: prefix("2001:db8:5::/48"),
      gateway: ip("2001:db8::2"),
      oif: index,
      priority: 5,
    },
  ];
  for (const route of added) socket.request(newRoute(route));
  for (const route of added) {
    expect(routesOf(route.family, route.table)).toContainEqual(route);
    expect(refusal(newRoute(route)).errno as number).toBe(EEXIST);
  }
  expect(routesOf(AF_INET, 1000)).toHaveLength(2);
  const ours = [AF_INET, AF_INET6]
    .flatMap((family) => socket.dump(dumpRoutes(family), decodeRoute))
    .filter(({ protocol }) => protocol === tag);
  expect(ours).toHaveLength(added.length);
  for (const route of ours) socket.request(deleteRoute(route));
  for (const family of [AF_INET, AF_INET6]) {
    expect(routesOf(family, 1000)).toEqual([]);
    expect(() => routesOf(family, 3000)).toThrow(NetlinkError);
  }
});

test("rules", () => {
  const rule: Rule = { family: AF_INET, table: 1000, priority: 50, protocol: 99, mark: 1, mask: 1 };
  const added: Rule[] = [
    rule,
    { ...rule, family: AF_INET6, iif: "veth0", oif: "lo", invert: true },
    {
      family: AF_INET,
      table: 100,
      priority: 51,
      protocol: 99,
      source: prefix("192.0.2.0/24"),
      destination: prefix("198.51.100.1/32"),
      ipProtocol: 6,
      sourcePorts: [1, 2],
      destinationPorts: [80, 80],
      uids: [0, 0],
      suppressPrefixLength: 0,
    },
  ];
  const before = [AF_INET, AF_INET6].map(rulesOf);
  for (const each of added) socket.request(newRule(each));
  for (const each of added) {
    expect(rulesOf(each.family)).toContainEqual(each);
    expect(refusal(newRule(each)).errno as number).toBe(EEXIST);
    socket.request(deleteRule(each));
  }
  expect([AF_INET, AF_INET6].map(rulesOf)).toEqual(before);
  expect(refusal(deleteRule(rule)).errno as number).toBe(ENOENT);
});

test("look-ups", () => {
  const query = { destination: ip("203.0.113.9"), source: ip("192.0.2.9"), iif: index, mark: 1 };
  const look = (request = query) => socket.get(getRoute(request), decodeRoute);
  expect(refusal(getRoute({ destination: ip("203.0.113.9") })).errno as number).toBe(ENETUNREACH);
  const route = { family: AF_INET, type: RTN_LOCAL, table: 1000, protocol: RTPROT_STATIC, oif: 1 };
  const rule = { family: AF_INET, table: 1000, mark: 1, mask: 1, priority: 50 };
  socket.request(newRoute(route));
  socket.request(newRule(rule));
  expect(look()).toMatchObject({ type: RTN_LOCAL, table: 1000, oif: 1, iif: index });
  const output = { destination: query.destination, mark: 3 };
  const found = socket.get(getRoute(output), decodeRoute);
  expect(found).toMatchObject({
    type: RTN_LOCAL,
    table: 1000,
    preferredSource: output.destination,
  });
  expect((found.flags ?? 0) & RTM_F_CLONED).toBe(RTM_F_CLONED);
  const match = { ...output, flags: RTM_F_FIB_MATCH };
  expect(socket.get(getRoute(match), decodeRoute)).toMatchObject(route);
  const neighbour = socket.get(getRoute({ destination: ip("192.0.2.9"), oif: index }), decodeRoute);
  expect(neighbour).toMatchObject({ type: RTN_UNICAST, table: RT_TABLE_MAIN, oif: index });
  expect(neighbour.preferredSource).toEqual(ip("192.0.2.1"));
  const six = socket.get(getRoute({ destination: ip("2001:db8::9") }), decodeRoute);
  expect(six).toMatchObject({ family: AF_INET6, type: RTN_UNICAST, oif: index });
  socket.request(deleteRule(rule));
  socket.request(deleteRoute(route));
});

test("refusals carry the kernel's words", () => {
  const destination = { address: ip("192.0.2.9"), length: 24 };
  const route = { family: AF_INET, type: RTN_UNICAST, table: 254, protocol: 4, oif: index };
  const prefixed = refusal(newRoute({ ...route, destination }));
  expect(prefixed.errno as number).toBe(EINVAL);
  expect(prefixed.kernelMessage).toBe("Invalid prefix for given prefix length");
  expect(prefixed.message).toBe(
    "RTM_NEWROUTE (Invalid prefix for given prefix length): Invalid argument (EINVAL)",
  );
  const unknown = refusal(getLink({ name: "nowhere" }));
  expect(unknown).toBeInstanceOf(SyscallError);
  expect(unknown.errno as number).toBe(ENODEV);
  const wide = { ...route, type: RTN_LOCAL, destination: prefix("198.51.100.0/24") };
  const { body } = newRoute({ ...wide, gateway: Uint8Array.of(1, 2, 3) });
  const broken = refusal({ ...newRoute(wide), body });
  expect(broken.offset).toBeGreaterThan(0);
  expect(broken.message).toContain(`attribute at byte ${broken.offset}`);
});

test("buffers are where they were after many collections", () => {
  const rule: Rule = { family: AF_INET, table: 1000, priority: 60, mark: 1, mask: 1 };
  const before = rulesOf(AF_INET);
  for (let round = 0; round < 100; round++) {
    socket.request(newRule(rule));
    Bun.gc(true);
    expect(rulesOf(AF_INET)).toHaveLength(before.length + 1);
    using another = NetlinkSocket.open(NETLINK_ROUTE);
    Bun.gc(true);
    another.request(deleteRule(rule));
    expect(another.get(getLink({ name: "lo" }), decodeLink).index).toBe(1);
  }
  expect(rulesOf(AF_INET)).toEqual(before);
});

testWith(["ip"])("ip(8) shows what was set", async () => {
  const route = { family: AF_INET, type: RTN_LOCAL, table: 1000, protocol: RTPROT_STATIC, oif: 1 };
  const rule = { family: AF_INET, table: 1000, mark: 1, mask: 1, priority: 50, iif: "veth0" };
  socket.request(newRoute(route));
  socket.request(newRule(rule));
  expect(await json("ip", "-j", "route", "show", "table", "1000")).toEqual([
    { type: "local", dst: "default", dev: "lo", protocol: "static", scope: "host", flags: [] },
  ]);
  expect(await json("ip", "-j", "rule", "show", "priority", "50")).toEqual([
    { priority: 50, src: "all", fwmark: "0x1", fwmask: "0x1", iif: "veth0", table: "1000" },
  ]);
  const [link] = await json("ip", "-j", "address", "show", "dev", "veth0");
  expect(link.ifindex).toBe(index);
  expect(link.addr_info[0]).toMatchObject({ family: "inet", local: "192.0.2.1", prefixlen: 24 });
  const six = link.addr_info.find(({ local }: { local: string }) => local === "2001:db8::1");
  expect(six).toMatchObject({ prefixlen: 64, nodad: true });
  expect(six.tentative).toBeUndefined();
});
