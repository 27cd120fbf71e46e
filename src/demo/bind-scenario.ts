/** Acts 1 and 5: a UDP socket that is bound to an address that nobody here has. */

import { EADDRNOTAVAIL, SyscallError } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { bindSocket } from "../engine/sockets.ts";
import { type Family, formatAddress } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { addresses, datagramPort } from "./addresses.ts";
import { sendDatagram } from "./client.ts";
import type { Context, Scenario } from "./context.ts";
import { Server } from "./server.ts";
import { Veth } from "./topology-builder.ts";

const peerPort = 9000;
const greeting = "hello from an address that is not mine";

/** Act 1. */
export const bindAct: Scenario = {
  title: "Bound to an address that is not ours",
  intro:
    "The box is 192.0.2.1, its peer in another network namespace is 192.0.2.2, a veth cable " +
    "between them. The box wants to send from 8.8.8.8:8080.",
  play: async (context) => {
    using cable = await layCable(4, context);
    await playBinding(context, cable, 4);
  },
};

/** The cable between the client and the box of a family. @throws NetlinkError, Interrupted */
export function layCable(family: Family, { setting }: Context): Promise<Veth> {
  const { box, client, prefixLength } = addresses[family];
  return Veth.lay(
    { address: box, prefixLength },
    { address: client, prefixLength },
    setting.signal,
  );
}

/** Refused without the option, bound with it, and heard by a peer. */
export async function playBinding(context: Context, cable: Veth, family: Family): Promise<void> {
  const { report, setting } = context;
  const local = { address: addresses[family].foreign.bytes, port: datagramPort, scopeId: 0 };
  const name = `udp://${formatSocketAddress(local)}`;
  const attempt = (transparent: boolean): Fd | SyscallError =>
    cable.box.run(() => {
      try {
        return bindSocket({ protocol: "udp", transparent }, local);
      } catch (error) {
        if (error instanceof SyscallError) return error;
        throw error;
      }
    });
  const outcome = (result: Fd | SyscallError) =>
    result instanceof SyscallError ? { call: result.call, error: result.code } : { bound: name };

  const option = family === 4 ? "IP_TRANSPARENT" : "IPV6_TRANSPARENT";
  const refused = attempt(false);
  if (!(refused instanceof SyscallError)) sys.close(refused);
  const word = refused instanceof SyscallError ? refused.message : "not at all";
  report.claim({
    step: `refused-v${family}`,
    text: `Without ${option} the kernel refuses ${name}, in these words: "${word}".`,
    ok: refused instanceof SyscallError && Number(refused.errno) === EADDRNOTAVAIL,
    evidence: outcome(refused),
  });

  const bound = attempt(true);
  report.claim({
    step: `bound-v${family}`,
    text: `With ${option} the socket is bound to it.`,
    ok: !(bound instanceof SyscallError),
    evidence: outcome(bound),
  });
  if (bound instanceof SyscallError) return;
  try {
    await using peer = new Server(
      cable.client,
      {
        protocol: "udp",
        address: addresses[family].client.bytes,
        port: peerPort,
        transparent: false,
        answer: { kind: "discard" },
      },
      setting,
    );
    sendDatagram(bound, addresses[family].client, peerPort, greeting);
    const datagram = await peer.next("datagram");
    report.output("peer", peer.takeLines());
    const from = datagram?.client;
    const peerName = formatAddress(addresses[family].client);
    report.claim({
      step: `seen-v${family}`,
      text: `The peer ${peerName} sees the datagram come from ${name}.`,
      ok:
        from === formatSocketAddress(local) &&
        Buffer.from(datagram?.bytes ?? []).toString() === greeting,
      evidence: { from: from ?? null, to: datagram?.local ?? null },
    });
  } finally {
    sys.close(bound);
  }
}
