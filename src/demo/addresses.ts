/** The addresses of the demo, and the commands that its Plans amount to. */

import { type IntentRequest, parseIntent } from "../capture/plan/intent.ts";
import { makePlan, type Plan } from "../capture/plan/plan.ts";
import { type Address, parseAddress } from "../net/address.ts";
import type { Cidr } from "../net/cidr.ts";

/** An address written in the source. */
function address(text: string): Address {
  const parsed = parseAddress(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
}

/** The demo's addresses, by family. No interface of the demo ever has the address of `foreign`. */
export const addresses = {
  4: {
    foreign: address("8.8.8.8"),
    client: address("192.0.2.2"),
    box: address("192.0.2.1"),
    any: address("0.0.0.0"),
    prefixLength: 24,
  },
  6: {
    foreign: address("2001:4860:4860::8888"),
    client: address("2001:db8::2"),
    box: address("2001:db8::1"),
    any: address("::"),
    prefixLength: 64,
  },
} as const;

export const loopback = address("127.0.0.1");

/** The port of the web in the article, and that of its datagrams. */
export const webPort = 80;
export const datagramPort = 8080;

/** Time limits for a connection that must succeed, and for one that must fail. */
export const patientMs = 3_000;
export const impatientMs = 400;

/** The plan of a request that is known to be right. */
export function planFor(request: IntentRequest): Plan {
  const intent = parseIntent(request);
  if (!intent.ok) throw new Error(intent.issue.code);
  return makePlan(intent.value);
}

/** One address as a network. */
export function alone({ family, bytes }: Address): Cidr {
  return { family, bytes, prefix: bytes.length * 8 };
}

/** A printed script without what only a script needs: the commands that a person would type. */
export function commandsOf(script: string): string[] {
  return script
    .split("\n")
    .filter((line) => !/^\s*(#|$)/.test(line) && !/^(set -e|status=0|exit )/.test(line))
    .map((line) => line.replace(/ \|\| status=1$/, ""));
}
