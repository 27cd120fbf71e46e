/** The flowtable follows interfaces; kernels that refuse it, and interfaces that go meanwhile. */

import { expect, test } from "bun:test";
import { EEXIST, ENOENT, EPERM } from "../../../../ffi/errno.ts";
import { NFT_MSG_NEWFLOWTABLE } from "../../../../ffi/netlink/constants.ts";
import { newLink } from "../../../../ffi/netlink/link.ts";
import { decodeFlowtable, newFlowtable } from "../../../../ffi/netlink/nftables/flowtable.ts";
import { NetlinkError } from "../../../../ffi/netlink/socket.ts";
import type { Message, ReceivedMessage } from "../../../../ffi/netlink/wire.ts";
import type { PathIntent } from "../../../../src/capture/kernel-path/intent.ts";
import { nftType } from "../../../../src/capture/live/desired-state.ts";
import { FlowtableLinks } from "../../../../src/control/kernel-path/flowtable-links.ts";
import { intent as plain } from "../../../helpers/path-plans.ts";

const refused = (errno: number) => new NetlinkError("a batch", { errno: errno as never });

/** A kernel with these interfaces, and a flowtable with these; undefined: no flowtable. */
function kernelWith(has: { links: string[]; devices?: string[]; knowsFlowtables: boolean }) {
  const sent: string[][] = [];
  const said: string[] = [];
  const dump = (message: Message, decode: (body: Uint8Array) => unknown) => {
    if (nftType(message) === undefined) {
      return has.links.map((name) => decode(newLink({ name, kind: "veth", up: true }).body));
    }
    if (has.devices === undefined) return [];
    const flowtable = { family: 1, table: "tproxyd", name: "ft", priority: 0 };
    return [decode(newFlowtable({ ...flowtable, devices: has.devices }).body)];
  };
  const batch = (messages: readonly Message[]): ReceivedMessage[] => {
    const [first] = messages;
    if (first === undefined || nftType(first) !== NFT_MSG_NEWFLOWTABLE) {
      throw refused(has.knowsFlowtables ? EEXIST : ENOENT);
    }
    const { devices } = decodeFlowtable(first.body);
    if (devices.some((each) => !has.links.includes(each))) throw refused(ENOENT);
    sent.push([...devices]);
    has.devices?.push(...devices);
    return [];
  };
  const channel = { dump, batch, portId: 1 } as never;
  const links = new FlowtableLinks({ route: channel, netfilter: channel }, (line) => {
    said.push(line);
  });
  return { has, links, sent, said };
}

const intent: PathIntent = { ...plain, offload: ["eth0", "gone"] };
/** Rules that the kernel takes with interfaces that are there. */
const putting = (has: { links: string[]; knowsFlowtables: boolean }) => {
  const tried: (readonly string[])[] = [];
  const put = ({ offload }: PathIntent) => {
    tried.push(offload);
    const isKnown = offload.every((each) => has.links.includes(each));
    if (offload.length > 0 && !(has.knowsFlowtables && isKnown)) throw refused(ENOENT);
    return offload;
  };
  return { tried, put };
};

test("an interface that went meanwhile is left out, and the others are offloaded", () => {
  const { has, links, said } = kernelWith({ links: ["eth0", "eth2"], knowsFlowtables: true });
  expect(links.with(intent, putting(has).put)).toEqual(["eth0", "eth2"]);
  expect(said).toEqual([]);
});

test("a kernel without flowtables is asked once, and the rules are put without one", () => {
  const { has, links, said } = kernelWith({ links: ["eth0"], knowsFlowtables: false });
  const { tried, put } = putting(has);
  expect([links.with(intent, put), links.with(intent, put)]).toEqual([[], []]);
  expect(tried).toEqual([["eth0", "gone"], [], []]);
  expect(said).toEqual([expect.stringContaining("no flowtables")]);
  expect(links.follow("tproxyd")).toBeTrue();
});

test("other refusals are not taken for a missing flowtable", () => {
  const { links } = kernelWith({ links: ["eth0"], knowsFlowtables: true });
  const put = () => {
    throw refused(EPERM);
  };
  expect(() => links.with(intent, put)).toThrow("EPERM");
});

test("interfaces that are missing in the flowtable are named to it, and only those", () => {
  const { has, links, sent, said } = kernelWith({
    ...{ links: ["eth0", "eth1"], devices: ["eth0", "eth1"], knowsFlowtables: true },
  });
  expect(links.follow("tproxyd")).toBeTrue();
  expect(sent).toEqual([]);
  // One is made anew, which the kernel has forgotten, and one is renamed.
  has.devices = ["eth0"];
  has.links = ["lan0", "eth1"];
  expect(links.follow("tproxyd")).toBeTrue();
  expect(sent).toEqual([["lan0", "eth1"]]);
  expect(said).toEqual(["the flowtable has lan0, eth1 from now on"]);
});

test("where there is no flowtable yet, rules are made anew once there are interfaces", () => {
  const { has, links } = kernelWith({ links: [], knowsFlowtables: true });
  expect(links.follow("tproxyd")).toBeTrue();
  has.links = ["eth0"];
  expect(links.follow("tproxyd")).toBeFalse();
});
