/** Upstreams of UDP that are not heard: counted, and named once. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { cleanUp, forward } from "../helpers/forward.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

test("a server that answers from another port, as TFTP does", async () => {
  const other = createSocket("udp4");
  const server = await udpPeer();
  const well = await udpPeer((data) => data);
  const { proxy, port } = await forward(server.port, "--udp", "--json", "--udp-timeout", "4s");
  const serve = async () => {
    const { from } = await server.next();
    other.send("from elsewhere", from.port, from.address);
  };
  for (let session = 0; session < 4; session++) {
    const client = await udpPeer();
    client.send(port, "read");
    await serve();
  }
  const [warning] = await proxy.until(/"[^"]*answered none of 3 sessions[^"]*"/);
  expect(warning).toContain(`udp://127.0.0.1:${server.port} `);
  expect(warning).toContain("answers from another port than it was asked at, as TFTP does");
  await proxy.until(/"forwarded"(.|\n)*"forwarded"(.|\n)*"forwarded"(.|\n)*"forwarded"/);
  proxy.kill("SIGUSR1");
  await proxy.until(/"unanswered_sessions":4/);
  expect(proxy.stdout().match(/answered none of/g)).toHaveLength(1);
  other.close();
  // One that answers is never named, whatever is lost of it.
  const second = await forward(well.port, "--udp", "--json", "--udp-timeout", "1s");
  expect(await ask(await udpPeer(), second.port, "echo")).toBe("echo");
  await second.proxy.until(/"forwarded"/);
  second.proxy.kill("SIGUSR1");
  await second.proxy.until(/"unanswered_sessions":0/);
  expect(second.proxy.stdout()).not.toContain("answered none of");
}, 240_000);
