/**
 * The options that say what is captured and how, which `routes`, `doctor` and `forward` share, and
 * what they amount to: a request for an Intent.
 */

import { multiple, optional } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { option } from "@optique/core/primitives";
import type { Family } from "../net/address.ts";
import type { IntentRequest } from "../routing/intent.ts";
import { prose } from "./prose.ts";
import {
  cidrValue,
  interfaceValue,
  listValue,
  maskedMarkValue,
  numberValue,
  portRangeValue,
  portValue,
  wordValue,
} from "./values.ts";

const familyNames = { 4: [4], 6: [6], both: [4, 6] } as const;

/** The fields for a command's `object({ … })`. */
export const captureFields = {
  dst: multiple(
    option("--dst", listValue(cidrValue()), {
      description: prose`Capture packets to these addresses or networks. Without it, to every
        unicast address that is not this host's own; ${"0.0.0.0/0"} or ${"::/0"} includes those.`,
    }),
  ),
  src: multiple(
    option("--src", listValue(cidrValue()), {
      description: prose`Capture packets from these addresses or networks only.`,
    }),
  ),
  dport: multiple(
    option("--dport", listValue(portRangeValue()), {
      description: prose`Capture packets to these ports only, such as ${"80,8000-9000"}.`,
    }),
  ),
  in: multiple(
    option("--in", listValue(interfaceValue()), {
      description: prose`Capture packets that arrive on these interfaces only.`,
    }),
  ),
  proto: multiple(
    option("--proto", listValue(wordValue("tcp|udp", ["tcp", "udp"])), {
      description: prose`Capture these protocols; tcp by default.`,
    }),
  ),
  family: optional(
    option("--family", wordValue("4|6|both", ["4", "6", "both"]), {
      description: prose`Capture these IP versions. By default those of the addresses given, and
        both if there are none.`,
    }),
  ),
  toPort: optional(
    option("--to-port", portValue(), {
      description: prose`Hand the packets to a listener on this port, by TPROXY. Without it the
        listener has the port that they are sent to, and they are only marked.`,
    }),
  ),
  mark: optional(
    option("--mark", maskedMarkValue(), {
      description: prose`The mark of captured packets; ${"0x1/0x1"} by default. Without a mask
        all 32 bits are replaced.`,
    }),
  ),
  table: optional(
    option("--table", numberValue("TABLE", 1, 0xffffffff), {
      description: prose`The routing table for marked packets; 100 by default.`,
    }),
  ),
  priority: optional(
    option("--priority", numberValue("PRIORITY", 1, 32765), {
      description: prose`The priority of the ip rule; 100 by default.`,
    }),
  ),
} as const;

/** The options once parsed. */
export type CaptureOptions = {
  readonly [Name in keyof typeof captureFields]: InferValue<(typeof captureFields)[Name]>;
};

/** The options as an intent's fields; what was not given stays out. */
export function toRequest(options: CaptureOptions): IntentRequest {
  const family: readonly Family[] | undefined =
    options.family === undefined ? undefined : familyNames[options.family];
  const request = {
    destinations: given(options.dst),
    sources: given(options.src),
    ports: given(options.dport),
    interfaces: given(options.in),
    protocols: given(options.proto),
    families: family === undefined ? undefined : [...family],
    mark: options.mark,
    table: options.table,
    priority: options.priority,
    toPort: options.toPort,
  };
  return Object.fromEntries(
    Object.entries(request).filter(([, value]) => value !== undefined),
  ) as IntentRequest;
}

/** The lists of an option that was given any number of times, as one. */
function given<T>(lists: readonly (readonly T[])[]): T[] | undefined {
  return lists.length === 0 ? undefined : lists.flat();
}
