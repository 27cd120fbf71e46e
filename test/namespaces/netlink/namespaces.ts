/** Run by `../netlink.test.ts` in a namespace of its own. */

import { expect, test } from "bun:test";
import { readdirSync, readlinkSync } from "node:fs";
import { F_GETFD, FD_CLOEXEC } from "../../../ffi/constants.ts";
import { NETLINK_ROUTE } from "../../../ffi/netlink/constants.ts";
import {
  decodeLink,
  deleteLink,
  dumpLinks,
  getLink,
  newVeth,
  setLink,
} from "../../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { NetworkNamespace } from "../../../ffi/netns.ts";
import * as sys from "../../../ffi/sys.ts";

const here = () => readlinkSync("/proc/thread-self/ns/net");
const openDescriptors = () => readdirSync("/proc/self/fd").length;
const names = (socket: NetlinkSocket) =>
  socket.dump(dumpLinks(), decodeLink).map(({ name }) => name);

test("a namespace is another one, and the thread comes back", () => {
  const home = here();
  using namespace = NetworkNamespace.create();
  using other = NetworkNamespace.create();
  expect(here()).toBe(home);
  const inside = namespace.run(here);
  expect(inside).not.toBe(home);
  expect(namespace.run(here)).toBe(inside);
  const nested = namespace.run(() => [other.run(here), here()]);
  expect(nested[0]).not.toBe(inside);
  expect(nested[1]).toBe(inside);
  expect(here()).toBe(home);
});

test("it comes back when the function throws, and takes no promise", () => {
  const home = here();
  using namespace = NetworkNamespace.create();
  const fail = () => {
    throw new RangeError("inside");
  };
  expect(() => namespace.run(fail)).toThrow(new RangeError("inside"));
  expect(here()).toBe(home);
  const asynchronous = (async () => here()) as unknown as () => string;
  expect(() => namespace.run(asynchronous)).toThrow("asynchronous");
  expect(here()).toBe(home);
});

test("sockets stay where they were opened, processes too", async () => {
  using namespace = NetworkNamespace.create();
  using outside = NetlinkSocket.open(NETLINK_ROUTE);
  using inside = namespace.run(() => NetlinkSocket.open(NETLINK_ROUTE));
  inside.request(newVeth("inside0", "inside1"));
  expect(names(inside)).toEqual(["lo", "inside1", "inside0"]);
  expect(names(outside)).toEqual(["lo"]);
  expect(namespace.run(() => names(outside))).toEqual(["lo"]);
  const child = namespace.run(() => ({
    process: Bun.spawn(["readlink", "/proc/self/ns/net"], { stdout: "pipe" }),
  }));
  expect((await child.process.stdout.text()).trim()).toBe(namespace.run(here));
});

test("a veth's end is made in another namespace, moved back, renamed and deleted", () => {
  using namespace = NetworkNamespace.create();
  using home = NetworkNamespace.current();
  using outside = NetlinkSocket.open(NETLINK_ROUTE);
  using inside = namespace.run(() => NetlinkSocket.open(NETLINK_ROUTE));
  outside.request(newVeth("near", "far", namespace.fd));
  expect(names(outside)).toEqual(["lo", "near"]);
  const far = inside.get(getLink({ name: "far" }), decodeLink);
  const near = outside.get(getLink({ name: "near" }), decodeLink);
  expect(far).toMatchObject({ kind: "veth", up: false, loopback: false });
  expect([near.peerIndex, far.peerIndex]).toEqual([far.index, near.index]);
  inside.request(setLink(far.index, { namespace: home.fd, name: "moved", mtu: 1400 }));
  expect(names(inside)).toEqual(["lo"]);
  const moved = outside.get(getLink({ name: "moved" }), decodeLink);
  expect(moved.mtu).toBe(1400);
  outside.request(setLink(moved.index, { up: true }));
  expect(outside.get(getLink({ index: moved.index }), decodeLink).up).toBe(true);
  outside.request(deleteLink({ name: "near" }));
  expect(names(outside)).toEqual(["lo"]);
});

test("a namespace goes with its last descriptor, and its interfaces with it", async () => {
  using outside = NetlinkSocket.open(NETLINK_ROUTE);
  const namespace = NetworkNamespace.create();
  outside.request(newVeth("near", "far", namespace.fd));
  namespace.close();
  namespace.close();
  expect(() => namespace.run(here)).toThrow("closed");
  // The kernel takes it down in the background.
  while (names(outside).includes("near")) await Bun.sleep(1);
  expect(names(outside)).toEqual(["lo"]);
});

test("nothing is inherited by programs, and nothing leaks", () => {
  const before = openDescriptors();
  const namespace = NetworkNamespace.create();
  const socket = namespace.run(() => NetlinkSocket.open(NETLINK_ROUTE));
  expect(sys.fcntl(namespace.fd, F_GETFD, 0)).toBe(FD_CLOEXEC);
  expect(sys.fcntl(socket.fd, F_GETFD, 0)).toBe(FD_CLOEXEC);
  socket.close();
  socket.close();
  namespace.close();
  expect(openDescriptors()).toBe(before);
  expect(() => socket.request(dumpLinks())).toThrow("EBADF");
});
