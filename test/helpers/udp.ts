/** Sockets of UDP on loopback, for tests of what is built. */

import { createSocket, type RemoteInfo } from "node:dgram";
import { once } from "node:events";
import { cleanups } from "./forward.ts";

/** A socket and what has arrived at it. */
export interface UdpPeer {
  readonly port: number;
  /** Sends to a port of loopback. */
  send(port: number, data: string | Uint8Array): void;
  /** The next datagram that has not been taken yet. */
  next(): Promise<{ readonly text: string; readonly from: RemoteInfo }>;
  close(): void;
}

/** A socket; with `answer`, what that makes of each datagram goes back. @throws port is taken */
export async function udpPeer(
  answer?: (data: Buffer, from: RemoteInfo) => Uint8Array,
  port = 0,
): Promise<UdpPeer> {
  const socket = createSocket("udp4");
  const arrived: [Buffer, RemoteInfo][] = [];
  let wake = () => {};
  socket.on("message", (data, from) => {
    if (answer !== undefined) return socket.send(answer(data, from), from.port, from.address);
    arrived.push([data, from]);
    wake();
  });
  socket.bind(port, "127.0.0.1");
  await once(socket, "listening");
  socket.on("error", () => {});
  let isOpen = true;
  const close = () => {
    if (isOpen) socket.close();
    isOpen = false;
  };
  cleanups.push(close);
  return {
    port: socket.address().port,
    send: (port, data) => socket.send(Buffer.from(data as string, "latin1"), port, "127.0.0.1"),
    next: async () => {
      while (arrived.length === 0) {
        await new Promise<void>((done) => {
          wake = done;
        });
      }
      const [data, from] = arrived.shift() as [Buffer, RemoteInfo];
      return { text: data.toString("latin1"), from };
    },
    close,
  };
}

/** Sends and awaits the answer. */
export async function ask(peer: UdpPeer, port: number, data: string): Promise<string> {
  peer.send(port, data);
  return (await peer.next()).text;
}
