/** `forward --accept-proxy` on loopback: what a header says, and what comes behind it. */

import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { encodeProxyV1 } from "../../src/proto/proxy-protocol-v1.ts";
import { encodeProxyV2 } from "../../src/proto/proxy-protocol-v2.ts";
import { backend, cleanUp, exchange, forward } from "../helpers/forward.ts";
import { at, bytesOf, checked, header, tlv } from "../unit/proto/headers.ts";

afterEach(cleanUp);

const named = encodeProxyV2(at("192.0.2.1", 56324), at("198.51.100.7", 443), "tcp");
const addresses = named.subarray(16);
const extras = bytesOf(tlv(1, "h2"), tlv(5, "unique"), tlv(4, new Uint8Array(300)));
const text = (bytes: string) => bytesOf(bytes);

/** Whom the header names; the others leave the connection's own ends in force. */
const named4 = /192\.0\.2\.1:56324 to tcp:\/\/198\.51\.100\.7:443 /;
const own = /127\.0\.0\.1:\d+ to tcp:\/\/127\.0\.0\.1:\d+ /;

const headers: readonly [what: string, bytes: Uint8Array, says: RegExp][] = [
  ["version 1", text("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"), named4],
  ["UNKNOWN", text("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), own],
  ["version 2", named, named4],
  ["LOCAL", header(0x20, 0x11, addresses, extras), own],
  ["TLVs", header(0x21, 0x11, addresses, extras), named4],
  ["TLVs and a checksum", checked(0x21, 0x11, bytesOf(addresses, extras), extras), named4],
];

describe("accepted", () => {
  test.each(headers)(
    "%s, whole and byte by byte; what is behind it is passed on",
    async (...row) => {
      const [, bytes, says] = row;
      const port = await backend((socket) => socket.pipe(socket));
      const { proxy, port: entry } = await forward(port, "--accept-proxy");
      const question = text("PROXY is what I say\r\n");
      expect(await exchange(entry, [bytesOf(bytes, question)])).toEqual(Buffer.from(question));
      await proxy.until(new RegExp(`${says.source}.*: ended by client\n`));
      const slow = connect({ port: entry, host: "127.0.0.1", noDelay: true });
      const answered = new Promise<Buffer>((resolve) => slow.on("data", resolve));
      for (const byte of bytesOf(bytes, question.subarray(0, 1))) {
        slow.write(Uint8Array.of(byte));
        await Bun.sleep(0);
      }
      expect(String(await answered)).toBe("P");
      slow.end();
      await proxy.until(new RegExp(`${says.source}.*\n.*${says.source}.*: ended by client\n`));
    },
  );
});

/** Sources that cannot be anybody's. */
const nobodies: readonly [string, number, RegExp][] = [
  ["0.0.0.0", 1, /PROXY protocol: the source is the unspecified address/],
  ["::", 1, /PROXY protocol: the source is the unspecified address/],
  ["224.0.0.1", 1, /PROXY protocol: the source is a multicast or broadcast address/],
  ["255.255.255.255", 1, /PROXY protocol: the source is a multicast or broadcast address/],
  ["ff02::1", 1, /PROXY protocol: the source is a multicast or broadcast address/],
  ["192.0.2.1", 0, /PROXY protocol: the source has port 0/],
];

describe("refused with a reset, and the log says why", () => {
  const broken = checked(0x21, 0x11, addresses, extras);
  broken[broken.length - 1] = 1;
  test.each([
    [
      "a checksum that is wrong",
      broken,
      /: invalid PROXY protocol header: its CRC32c does not fit/,
    ],
    [
      "no header",
      text("GET / HTTP/1.1\r\n\r\n"),
      /: invalid PROXY protocol header: the connection starts with "GET/,
    ],
    ["a datagram's", header(0x21, 0x12, addresses), /the header is that of a datagram/],
    ["half of one", text("PROXY TCP4 192.0.2.1"), /PROXY protocol: no whole header/],
    ["nothing", new Uint8Array(0), /PROXY protocol: no header/],
    ...nobodies.flatMap(([address, port, reason]): [string, Uint8Array, RegExp][] => {
      const [source, to] = [at(address, port), at(address.includes(":") ? "::2" : "192.0.2.9", 80)];
      return [
        [`version 1 from ${address} ${port}`, encodeProxyV1(source, to), reason],
        [`version 2 from ${address} ${port}`, encodeProxyV2(source, to, "tcp"), reason],
      ];
    }),
  ])("%s", async (_, bytes, says) => {
    const port = await backend(() => {
      throw new Error("it was carried on");
    });
    const { proxy, port: entry } = await forward(port, "--accept-proxy");
    const client = connect({ port: entry, host: "127.0.0.1" });
    const error = new Promise<Error>((resolve) => client.on("error", resolve));
    client.end(bytes);
    await proxy.until(new RegExp(`${says.source}.*\n`));
    expect(await error).toMatchObject({ code: "ECONNRESET" });
  });
});

describe("--to original refuses destinations that nobody can be reached at", () => {
  test.each([
    ["0.0.0.0", 80, "the destination is the unspecified address"],
    ["::", 80, "the destination is the unspecified address"],
    ["224.0.0.1", 80, "the destination is a multicast or broadcast address"],
    ["255.255.255.255", 80, "the destination is a multicast or broadcast address"],
    ["ff02::1", 80, "the destination is a multicast or broadcast address"],
    ["192.0.2.9", 0, "the destination has port 0"],
  ])("%s port %d", async (address, port, reason) => {
    const { proxy, port: entry } = await forward("original", "--accept-proxy");
    const source = at(address.includes(":") ? "2001:db8::1" : "192.0.2.1", 1);
    const to = at(address, port);
    for (const bytes of [encodeProxyV1(source, to), encodeProxyV2(source, to, "tcp")]) {
      const client = connect({ port: entry, host: "127.0.0.1" });
      const error = new Promise<Error>((resolve) => client.on("error", resolve));
      client.end(bytes);
      expect(await error).toMatchObject({ code: "ECONNRESET" });
    }
    await proxy.until(new RegExp(`(PROXY protocol: ${reason}.*\\n.*){2}`));
  });
});

describe("passed on by --accept-proxy --send-proxy", () => {
  const kept = bytesOf(tlv(1, "h2"), tlv(5, "unique"), tlv(0xe1, "mine"));
  const tlvs = bytesOf(kept, tlv(4, new Uint8Array(300)), tlv(0x30, "netns"));
  test.each([
    [
      "v2",
      "TLVs of the client",
      header(0x21, 0x11, addresses, tlvs),
      header(0x21, 0x11, addresses, kept),
    ],
    [
      "v2",
      "a checksum, of the new header",
      checked(0x21, 0x11, bytesOf(addresses, tlvs), new Uint8Array()),
      checked(0x21, 0x11, bytesOf(addresses, kept), new Uint8Array()),
    ],
    ["v2", "LOCAL", header(0x20, 0x11, addresses, tlvs), header(0x20, 0x00)],
    ["v2", "UNKNOWN", text("PROXY UNKNOWN\r\n"), header(0x21, 0x00)],
    ["v1", "LOCAL", header(0x20, 0x00), text("PROXY UNKNOWN\r\n")],
    ["v1", "the ends alone", named, text("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n")],
  ] as const)("%s: %s", async (version, _, sent, expected) => {
    const arrived: Buffer[] = [];
    const port = await backend((socket) => {
      socket.on("data", (chunk: Buffer) => arrived.push(chunk));
      socket.on("end", () => socket.end("seen"));
    });
    const { port: entry } = await forward(port, "--accept-proxy", "--send-proxy", version);
    expect(String(await exchange(entry, [bytesOf(sent, "x")]))).toBe("seen");
    expect(Buffer.concat(arrived)).toEqual(Buffer.from(bytesOf(expected, "x")));
  });
});
