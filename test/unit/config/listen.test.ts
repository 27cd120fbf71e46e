import { expect, test } from "bun:test";
import { endpointsOf, formatListen, parseListen } from "../../../src/config/listen.ts";

test.each([
  [":80", ":80"],
  ["tcp://*:80", ":80"],
  ["udp://[::]:53", "udp://[::]:53"],
  ["192.0.2.1:20000-20100", "192.0.2.1:20000-20100"],
  ["udp://:1-65535", "udp://:1-65535"],
  ["[fe80::1%eth0]:80", "[fe80::1%eth0]:80"],
  [":5-5", ":5"],
  [":0", ":0"],
])("%s", (text, canonical) => {
  const listen = parseListen(text);
  expect(listen.ok && formatListen(listen.value)).toBe(canonical);
});

test("each port is a socket of its own", () => {
  const listen = parseListen("127.0.0.1:10-12");
  const ports = listen.ok ? endpointsOf(listen.value).map(({ port }) => Number(port)) : [];
  expect(ports).toEqual([10, 11, 12]);
});

test.each([
  ["80", '"80" is a port alone: give ":80" for every IPv4 address'],
  [":20-10", '":20-10": "20-10" is a range that ends before it starts: give "10-20"'],
  [":0-10", '":0-10": "0-10" is not a port or a range of ports'],
  ["x:1-2", '"x:1-2" is not ADDRESS:PORT: give "8.8.8.8:8080"'],
  ["sctp://:80", '"sctp://:80" is not ADDRESS:PORT'],
])("%s: %s", (text, error) => {
  const listen = parseListen(text);
  expect(listen.ok ? "" : listen.error).toStartWith(error);
});
