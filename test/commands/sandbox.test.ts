/**
 * In a sandbox that refuses system calls which have a plain substitute: every byte arrives, and one
 * line says what is done without. The filter is a seccomp program in front of the executable.
 */

import { afterEach, describe, expect } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { backend, cleanUp, forwardBy } from "../helpers/forward.ts";
import { testWith } from "../helpers/tools.ts";
import { listening } from "../helpers/tproxy.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

const helper = new URL("../helpers/refusing.py", import.meta.url).pathname;
const refusing = (errno: number, ...calls: string[]) => ({
  prefix: ["python3", helper, String(errno), calls.join()],
});
const testFiltered = testWith(["python3"]);

const errnos = [
  ["EPERM", 1],
  ["ENOSYS", 38],
  ["EINVAL", 22],
  ["EOPNOTSUPP", 95],
] as const;

const data = randomBytes(8 * 1024 * 1024);
const sum = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Sends all of `data` and reads it back, with pauses, from something that echoes. */
async function roundTrip(port: number): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const hash = createHash("sha256");
  socket.on("data", (chunk: Buffer) => {
    hash.update(chunk);
    // A receiver that stalls: what it does not take has to be kept in its order.
    socket.pause();
    setImmediate(() => socket.resume());
  });
  socket.end(data);
  await once(socket, "end");
  return hash.digest("hex");
}

describe("splice", () => {
  // Refused as such, and by a kernel that takes it with some descriptors alone.
  const refusals = [
    ...errnos.map(([name, errno]) => [name, errno, "splice"] as const),
    ["EINVAL", 22, "splice:5=3"] as const,
  ];
  for (const [name, errno, call] of refusals) {
    testFiltered(
      `${call} ${name}: bytes are copied, all of them, and a line says so once`,
      async () => {
        const port = await backend((socket) => socket.pipe(socket));
        const { proxy, port: entry } = await forwardBy(refusing(errno, call), port);
        expect(await Promise.all([roundTrip(entry), roundTrip(entry)])).toEqual([
          sum(data),
          sum(data),
        ]);
        proxy.kill("SIGTERM");
        const { stdout } = await proxy.finished();
        expect(stdout.match(/splice\(2\) is refused here/g)).toHaveLength(1);
        expect(stdout).toContain(`(${name}): bytes are copied through this process`);
        expect(stdout.match(/ended by client/g)).toHaveLength(2);
        expect(stdout).not.toContain("by upstream");
      },
    );
  }
});

/** By TCP without pipes, and with what else makes sockets better. */
const tcpCalls = [
  ["pipe2", "splice"],
  ["pipe2"],
  ["fcntl:1=1031"],
  ["accept4"],
  // TCP_NODELAY, TCP_QUICKACK, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE.
  ["setsockopt:1=6:2=1", "setsockopt:1=6:2=12", "setsockopt:1=0:2=24", "setsockopt:1=0:2=51"],
];

describe.each(tcpCalls.map((calls) => [calls.join(), calls] as const))("%s", (_name, calls) => {
  testFiltered("TCP goes on, and nobody is blamed", async () => {
    const port = await backend((socket) => socket.pipe(socket));
    const { proxy, port: entry } = await forwardBy(refusing(1, ...calls), port);
    expect(await roundTrip(entry)).toBe(sum(data));
    proxy.kill("SIGTERM");
    const { stdout } = await proxy.finished();
    expect(stdout).toMatch(/ended by client/);
    expect(/accept4\(2\) is refused here/.test(stdout)).toBe(calls.includes("accept4"));
  });
});

// UDP_GRO: setsockopt(SOL_UDP).
const udpCalls = [["recvmmsg"], ["sendmmsg"], ["recvmmsg", "sendmmsg", "setsockopt:1=17:2=104"]];

describe.each(udpCalls.map((calls) => [calls.join(), calls] as const))("%s", (_name, calls) => {
  testFiltered("UDP goes on, of few clients and of busy ones", async () => {
    const { port } = await udpPeer((bytes) => bytes);
    const { proxy, port: entry } = await forwardBy(refusing(38, ...calls), port, "--udp");
    const clients = await Promise.all([udpPeer(), udpPeer(), udpPeer()]);
    for (const [at, client] of clients.entries()) {
      for (let i = 0; i < 80; i++)
        expect(await ask(client, entry, `${at} ${i}`)).toBe(`${at} ${i}`);
      // Many at once, which are read and sent in batches where that is possible.
      for (let i = 0; i < 20; i++) client.send(entry, `burst ${i}`);
      for (let i = 0; i < 20; i++) expect((await client.next()).text).toBe(`burst ${i}`);
    }
    proxy.kill("SIGTERM");
    const { stdout } = await proxy.finished();
    for (const call of ["recvmmsg", "sendmmsg"]) {
      const line = stdout.includes(`${call}(2) is refused here: Function not implemented (ENOSYS)`);
      expect(line).toBe(calls.includes(call));
    }
    expect(stdout).not.toContain("dropped");
  });
});

describe("listen", () => {
  testFiltered("answers by TCP and UDP with the substitutes", async () => {
    const options = refusing(1, "accept4", "recvmmsg", "sendmmsg");
    const tcp = await listening(["127.0.0.1:0", "--echo"], options);
    const socket = connect({ port: tcp.port, host: "127.0.0.1" });
    socket.end("hello");
    const [chunk] = await once(socket, "data");
    expect(String(chunk)).toBe("hello");
    tcp.server.kill("SIGTERM");
    expect((await tcp.server.finished()).stdout).toContain("accept4(2) is refused here");
    const udp = await listening(["--udp", "127.0.0.1:0", "--echo"], options);
    expect(await ask(await udpPeer(), udp.port, "hello")).toBe("hello");
    udp.server.kill("SIGTERM");
    expect((await udp.server.finished()).stdout).toContain("recvmmsg(2) is refused here");
  });
});
