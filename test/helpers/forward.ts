/** Servers and a proxy on loopback, for tests of what is built. */

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { type Running, type StartOptions, start } from "./tproxy.ts";

/** What is to be done at the end of the test, whatever has become of it. */
export const cleanups: (() => unknown)[] = [];

/** For `afterEach`: ends what the test has started, the last one first. */
export async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
}

/** A TCP server on loopback; its port. */
export async function backend(serve: (socket: Socket) => void): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    serve(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => server.close());
  return (server.address() as { port: number }).port;
}

export interface Forward {
  readonly proxy: Running;
  readonly port: number;
}

/** A proxy on loopback that needs no privileges. */
export function forward(port: number | "original", ...args: string[]): Promise<Forward> {
  return forwardBy({}, port, ...args);
}

/** The same, started in another way. */
export async function forwardBy(
  options: StartOptions,
  port: number | "original",
  ...args: string[]
): Promise<Forward> {
  const own = ["--no-transparent", "--source", "self", "127.0.0.1:0"];
  const to = port === "original" ? port : `127.0.0.1:${port}`;
  const proxy = start(["forward", ...own, "--to", to, ...args], options);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const [, bound] = await proxy.until(/(?:(?:tcp|udp):\/\/|"address":")127\.0\.0\.1:(\d+)\D/);
  return { proxy, port: Number(bound) };
}

/** Sends the parts and the end of the stream; what came back until the other side's end. */
export function exchange(port: number, parts: readonly Uint8Array[]): Promise<Buffer> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  const received = new Promise<Buffer>((resolve) => {
    socket.on("close", () => resolve(Buffer.concat(chunks)));
    socket.on("end", () => resolve(Buffer.concat(chunks)));
  });
  socket.on("error", () => {});
  for (const part of parts) socket.write(part);
  socket.end();
  return received;
}

/** What it has printed with --json so far. */
export const events = (proxy: Running): Record<string, unknown>[] =>
  proxy
    .stdout()
    .split("\n")
    // Behind the last newline is the beginning of a line, or nothing.
    .slice(0, -1)
    .map((line) => JSON.parse(line));

/** Of that, the events of one kind. */
export const eventsOf = (proxy: Running, event: string) =>
  events(proxy).filter((entry) => entry.event === event);
