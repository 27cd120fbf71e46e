/** `forward --udp` and the PROXY protocol on loopback: who is taken for whom, what is dropped. */

import { afterEach, describe, expect, test } from "bun:test";
import { encodeProxyV1 } from "../../src/proto/proxy-protocol-v1.ts";
import { encodeProxyV2 } from "../../src/proto/proxy-protocol-v2.ts";
import { ip } from "../helpers/addresses.ts";
import { cleanUp, type Forward, forward } from "../helpers/forward.ts";
import { ask, type UdpPeer, udpPeer } from "../helpers/udp.ts";
import { bytesOf, checked, header, tlv } from "../unit/proto/headers.ts";

afterEach(cleanUp);

const end = (address: string, port: number) => ({ address: ip(address), port, scopeId: 0 });
const asked = end("203.0.113.53", 53);

/** A header of version 2 that names a client, and what is behind it. */
function from(client: string, text: string): Buffer {
  const header = encodeProxyV2(end(client, 1000), asked, "udp");
  return Buffer.concat([header, Buffer.from(text)]);
}

interface Lab extends Forward {
  readonly sender: UdpPeer;
}

/** Answers come from a server that says to which of its clients' ports they go. */
async function accepting(...args: string[]): Promise<Lab> {
  const { port } = await udpPeer((data, { port }) => Buffer.from(`${data} to ${port}`));
  const proxy = await forward(port, "--udp", "--json", ...args);
  return { ...proxy, sender: await udpPeer() };
}

interface Line {
  readonly event: string;
  readonly text?: string;
  readonly client?: string;
  readonly [field: string]: unknown;
}

/** Ends it; what it has told. */
async function ended({ proxy }: Forward): Promise<Line[]> {
  proxy.kill("SIGTERM");
  const { stdout } = await proxy.finished();
  return stdout
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

const sessionsOf = (log: readonly Line[]) => log.filter(({ event }) => event === "forwarded");
const warningsOf = (log: readonly Line[]) =>
  log.flatMap(({ event, text }) => (event === "warning" ? [text] : []));

/** What was asked, and the port that the server saw: of the session's own upstream socket. */
async function exchange(
  { sender, port }: Lab,
  data: string | Uint8Array,
): Promise<[string, string]> {
  sender.send(port, data);
  const { text, from: answerer } = await sender.next();
  expect(answerer.port).toBe(port);
  return text.split(" to ") as [string, string];
}

describe("--accept-proxy", () => {
  test("a header in front of every datagram: a session for each client of one socket", async () => {
    const lab = await accepting("--accept-proxy");
    const seen: [string, string][] = [];
    for (const [client, text] of [
      ["198.51.100.1", "a"],
      ["198.51.100.2", "b"],
      ["198.51.100.1", "c"],
      ["2001:db8::1", "d"],
      ["198.51.100.2", "e"],
    ] as const) {
      const v6 = encodeProxyV2(end(client, 1000), end("2001:db8::2", 53), "udp");
      const data = client.includes(":")
        ? Buffer.concat([v6, Buffer.from(text)])
        : from(client, text);
      seen.push(await exchange(lab, data));
    }
    expect(seen.map(([text]) => text)).toEqual(["a", "b", "c", "d", "e"]);
    const [a, b, c, d, e] = seen.map(([, port]) => port);
    expect([c, e]).toEqual([a, b]);
    expect(new Set([a, b, d]).size).toBe(3);
    const log = await ended(lab);
    expect(sessionsOf(log)).toMatchObject([
      { client: "198.51.100.1:1000", original_destination: "203.0.113.53:53", client_datagrams: 2 },
      { client: "198.51.100.2:1000", original_destination: "203.0.113.53:53", client_datagrams: 2 },
      { client: "[2001:db8::1]:1000", original_destination: "[2001:db8::2]:53", client_bytes: 1 },
    ]);
    expect(warningsOf(log)).toEqual([]);
  });

  test("a header in front of the first one alone: what follows is of that client", async () => {
    const lab = await accepting("--accept-proxy=127.0.0.0/8");
    const ports = new Map<string, string>();
    for (const data of [from("198.51.100.1", "a"), "b", "", from("198.51.100.2", "c"), "d"]) {
      const [text, port] = await exchange(lab, data);
      ports.set(text, port);
    }
    // Its port at the sender was given to the first client again, whose session is still there.
    for (const data of [from("198.51.100.1", "e"), "f"]) {
      const [text, port] = await exchange(lab, data);
      ports.set(text, port);
    }
    const [a, c] = [ports.get("a"), ports.get("c")];
    expect(a).not.toBe(c);
    expect([...ports]).toEqual([
      ...([
        ["a", a],
        ["b", a],
        ["", a],
        ["c", c],
        ["d", c],
        ["e", a],
        ["f", a],
      ] as [string, string][]),
    ]);
    const log = await ended(lab);
    expect(sessionsOf(log).map(({ client, client_bytes }) => [client, client_bytes])).toEqual([
      ["198.51.100.1:1000", 4],
      ["198.51.100.2:1000", 2],
    ]);
    expect(warningsOf(log)).toEqual([]);
  });

  test("two sockets of a sender name the same client: two sessions", async () => {
    const lab = await accepting("--accept-proxy");
    const other = { ...lab, sender: await udpPeer() };
    const [, one] = await exchange(lab, from("198.51.100.1", "a"));
    const [, two] = await exchange(other, from("198.51.100.1", "b"));
    expect(one).not.toBe(two);
    expect(await exchange(lab, "c")).toEqual(["c", one]);
    expect(await exchange(other, "d")).toEqual(["d", two]);
  });

  test("a header alone begins a session, and is no datagram; later, an empty one", async () => {
    const lab = await accepting("--accept-proxy");
    lab.sender.send(lab.port, from("198.51.100.1", ""));
    expect((await exchange(lab, "a"))[0]).toBe("a");
    expect((await exchange(lab, from("198.51.100.1", "")))[0]).toBe("");
    expect(sessionsOf(await ended(lab))).toMatchObject([
      { client: "198.51.100.1:1000", client_datagrams: 2, upstream_datagrams: 2 },
    ]);
  });

  test("LOCAL and UNKNOWN: its own addresses count; version 1 is read, too", async () => {
    const lab = await accepting("--accept-proxy");
    const local = encodeProxyV2(undefined, undefined, "udp");
    const unknown = encodeProxyV1(undefined, undefined);
    const line = encodeProxyV1(end("198.51.100.1", 1000), asked);
    for (const header of [local, unknown, line]) {
      await exchange(lab, Buffer.concat([header, Buffer.from("x")]));
    }
    const own = `127.0.0.1:${lab.sender.port}`;
    expect(sessionsOf(await ended(lab))).toMatchObject([
      { client: own, original_destination: `127.0.0.1:${lab.port}`, client_datagrams: 2 },
      { client: "198.51.100.1:1000", original_destination: "203.0.113.53:53" },
    ]);
  });

  test("what cannot be believed is dropped, counted by reason, and said once", async () => {
    const lab = await accepting("--accept-proxy");
    const { sender, port } = lab;
    const wrong = from("198.51.100.1", "");
    const checksum = Buffer.concat([wrong, Buffer.from([3, 0, 4, 1, 2, 3, 4])]);
    checksum.writeUInt16BE(19, 14);
    const stream = encodeProxyV2(end("198.51.100.1", 1000), asked, "tcp");
    for (const data of [
      "no header",
      "none",
      "",
      checksum,
      checksum,
      wrong.subarray(0, 20),
      stream,
    ]) {
      sender.send(port, data);
    }
    expect((await exchange(lab, from("198.51.100.1", "good")))[0]).toBe("good");
    lab.proxy.kill("SIGUSR1");
    await lab.proxy.until(/"counters".*"dropped_datagrams":7/);
    const log = await ended(lab);
    const broken = "a datagram was dropped: its PROXY protocol header is broken:";
    const none =
      "a datagram was dropped: " +
      "it has no PROXY protocol header, and its sender has named nobody before";
    expect(warningsOf(log)).toEqual([
      none,
      `${broken} its CRC32c does not fit`,
      `${broken} it is cut off`,
      `${broken} it is that of a connection`,
      `${none} (2 more)`,
      `${broken} its CRC32c does not fit (1 more)`,
    ]);
    expect(sessionsOf(log)).toHaveLength(1);
  });

  test("a sender that is not allowed is not heard, with a header or without", async () => {
    const lab = await accepting("--accept-proxy=192.0.2.0/24,2001:db8::/32");
    for (const data of [from("198.51.100.1", "x"), "y"]) lab.sender.send(lab.port, data);
    await lab.proxy.until(/is not allowed to speak for others/);
    lab.proxy.kill("SIGUSR1");
    await lab.proxy.until(/"counters".*"dropped_datagrams":2/);
    const log = await ended(lab);
    expect(sessionsOf(log)).toEqual([]);
    expect(warningsOf(log)).toHaveLength(2);
  });

  test("once the session has ended nothing is known of its sender any more", async () => {
    const lab = await accepting("--accept-proxy", "--udp-timeout", "100ms");
    await exchange(lab, from("198.51.100.1", "x"));
    await lab.proxy.until(/"forwarded"/);
    lab.sender.send(lab.port, "y");
    await lab.proxy.until(/its sender has named nobody before/);
    expect((await exchange(lab, from("198.51.100.2", "z")))[0]).toBe("z");
  });

  test("many clients over one socket at once: every answer is that of its client", async () => {
    const lab = await accepting("--accept-proxy");
    const portOf = new Map<string, string>();
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 50; i++) lab.sender.send(lab.port, from(`198.51.100.${i}`, `${i}`));
      for (let i = 0; i < 50; i++) {
        const [text, port] = (await lab.sender.next()).text.split(" to ") as [string, string];
        expect(portOf.get(text) ?? port).toBe(port);
        portOf.set(text, port);
      }
    }
    expect(new Set(portOf.values()).size).toBe(50);
    expect(sessionsOf(await ended(lab))).toHaveLength(50);
  });

  test("--max-sessions-per-client counts those whom the headers name", async () => {
    const lab = await accepting("--accept-proxy", "--max-sessions-per-client", "1");
    await exchange(lab, from("198.51.100.1", "a"));
    await exchange(lab, from("198.51.100.2", "b"));
    const other = await udpPeer();
    other.send(lab.port, from("198.51.100.1", "c"));
    await lab.proxy.until(/the client has as many as it may have/);
    const third = from("198.51.100.3", "d").toString("latin1");
    expect(await ask(other, lab.port, third)).toMatch(/^d to/);
  });
});

describe("--send-proxy", () => {
  async function sending(option: string) {
    const upstream = await udpPeer();
    const lab = await forward(upstream.port, "--udp", "--json", "--send-proxy", option);
    const client = await udpPeer();
    const ends = [end("127.0.0.1", client.port), end("127.0.0.1", lab.port)] as const;
    const header = Buffer.from(encodeProxyV2(...ends, "udp")).toString("latin1");
    return {
      ...lab,
      send: (data: string) => client.send(lab.port, data),
      /** What the upstream gets, a `#` in the place of the right header. */
      next: async () => (await upstream.next()).text.replaceAll(header, "#"),
    };
  }

  test.each([
    ["v2", ["#one", "", "three"]],
    ["v2:every", ["#one", "#", "#three"]],
  ])(
    "%s: in front of the right ones; the log counts what is the client's",
    async (option, heads) => {
      const lab = await sending(option);
      for (const data of ["one", "", "three"]) lab.send(data);
      expect([await lab.next(), await lab.next(), await lab.next()]).toEqual(heads);
      expect(sessionsOf(await ended(lab))).toMatchObject([
        { client_datagrams: 3, client_bytes: 8 },
      ]);
    },
  );

  test.each([
    ["v2", ""],
    ["v2:every", "#"],
  ])("%s: what is too large with it is dropped, not cut", async (option, head) => {
    const lab = await sending(option);
    const largest = "x".repeat(65_507 - 28);
    lab.send(`${largest}y`);
    await lab.proxy.until(/was dropped: Message too long \(EMSGSIZE\)/);
    // As long as none has taken the header to the upstream, the next one does.
    lab.send(largest);
    expect((await lab.next()) === `#${largest}`).toBe(true);
    lab.send("more");
    expect(await lab.next()).toBe(`${head}more`);
    const log = await ended(lab);
    expect(sessionsOf(log)).toMatchObject([{ client_datagrams: 2, client_bytes: 65_479 + 4 }]);
    expect(warningsOf(log)).toHaveLength(1);
  });

  test("what came with a header goes on with one that says the same, each time", async () => {
    const upstream = await udpPeer();
    const option = ["--send-proxy", "v2:every", "--accept-proxy"];
    const lab = await forward(upstream.port, "--udp", ...option);
    const sender = await udpPeer();
    const names = ["198.51.100.1", "198.51.100.2", "198.51.100.1"];
    for (const [i, name] of names.entries()) {
      sender.send(lab.port, from(name, `${i}`));
      expect((await upstream.next()).text).toBe(from(name, `${i}`).toString("latin1"));
    }
  });
});

describe("both", () => {
  const headerOf = (data: Uint8Array) => data.subarray(0, 16 + Buffer.from(data).readUInt16BE(14));

  /** What the upstream got in front of "x", which it sends back. */
  async function passedOn(header: Uint8Array, option: string): Promise<Uint8Array> {
    const { port } = await udpPeer((data) => data);
    const lab = await forward(port, "--udp", "--accept-proxy", "--send-proxy", option);
    const sender = await udpPeer();
    sender.send(lab.port, bytesOf(header, "x"));
    return Buffer.from((await sender.next()).text, "latin1");
  }

  test.each(["v2", "v2:every"])("%s passes on TLVs of the client, and LOCAL", async (option) => {
    const ends = headerOf(from("198.51.100.1", "")).subarray(16);
    const kept = bytesOf(tlv(2, "host"), tlv(0xe1, "mine"));
    const sent = bytesOf(ends, kept, tlv(4, "padding"));
    expect(await passedOn(header(0x21, 0x12, sent), option)).toEqual(
      Buffer.from(bytesOf(header(0x21, 0x12, ends, kept), "x")),
    );
    expect(await passedOn(checked(0x21, 0x12, sent, new Uint8Array()), option)).toEqual(
      Buffer.from(bytesOf(checked(0x21, 0x12, bytesOf(ends, kept), new Uint8Array()), "x")),
    );
    expect(await passedOn(header(0x20, 0x00), option)).toEqual(
      Buffer.from(bytesOf(header(0x20, 0x00), "x")),
    );
    // A datagram has little room.
    const large = header(0x21, 0x12, ends, tlv(0xe1, new Uint8Array(600)));
    expect(await passedOn(large, option)).toEqual(
      Buffer.from(bytesOf(header(0x21, 0x12, ends), "x")),
    );
  });

  test("--to original refuses destinations where nobody is, and says so", async () => {
    const { proxy, port } = await forward("original", "--udp", "--json", "--accept-proxy");
    const sender = await udpPeer();
    const nowhere = [end("0.0.0.0", 53), end("255.255.255.255", 53), end("192.0.2.9", 0)];
    for (const to of nowhere) {
      for (const encoded of [
        encodeProxyV2(end("192.0.2.1", 1), to, "udp"),
        encodeProxyV1(end("192.0.2.1", 1), to),
      ]) {
        sender.send(port, bytesOf(encoded, "x"));
      }
    }
    for (const to of [end("::", 53), end("ff02::1", 53)]) {
      sender.send(port, bytesOf(encodeProxyV2(end("2001:db8::1", 1), to, "udp"), "x"));
    }
    await proxy.until(/the destination has port 0/);
    proxy.kill("SIGUSR1");
    await proxy.until(/"counters".*"refused_sessions":8/);
    const log = await ended({ proxy, port });
    expect(sessionsOf(log)).toEqual([]);
    const refused = "a session was refused: the destination";
    const said = new Set(warningsOf(log).map((text) => text?.replace(/ \(\d+ more\)$/, "")));
    expect([...said].sort()).toEqual([
      `${refused} has port 0`,
      `${refused} is a multicast or broadcast address`,
      `${refused} is the unspecified address`,
    ]);
  });

  test("a source that cannot be anybody's is refused, and said", async () => {
    const lab = await accepting("--accept-proxy");
    for (const [address, port] of [
      ["0.0.0.0", 1],
      ["239.1.2.3", 1],
      ["255.255.255.255", 1],
      ["192.0.2.1", 0],
    ] as const) {
      const source = end(address, port);
      lab.sender.send(lab.port, bytesOf(encodeProxyV2(source, asked, "udp"), "x"));
      lab.sender.send(lab.port, bytesOf(encodeProxyV1(source, asked), "x"));
    }
    for (const address of ["::", "ff02::1"]) {
      const to = end("2001:db8::2", 53);
      lab.sender.send(lab.port, bytesOf(encodeProxyV2(end(address, 1), to, "udp"), "x"));
    }
    expect((await exchange(lab, from("198.51.100.1", "good")))[0]).toBe("good");
    lab.proxy.kill("SIGUSR1");
    await lab.proxy.until(/"counters".*"refused_sessions":10/);
    const log = await ended(lab);
    expect(sessionsOf(log)).toHaveLength(1);
    const rejected = log.filter(({ event }) => event === "refused");
    expect(rejected).toHaveLength(10);
    expect(rejected[0]).toMatchObject({
      ...{ protocol: "udp", client: "0.0.0.0:1", original_destination: "203.0.113.53:53" },
      ...{ ended_by: "proxy", reason: "invalid-address", client_bytes: 0 },
    });
    const refused = "a session was refused: the source";
    expect(warningsOf(log)).toEqual([
      `${refused} is the unspecified address, which nobody has`,
      `${refused} is a multicast or broadcast address`,
      `${refused} has port 0`,
      `${refused} is the unspecified address, which nobody has (2 more)`,
      `${refused} is a multicast or broadcast address (4 more)`,
      `${refused} has port 0 (1 more)`,
    ]);
  });
});
