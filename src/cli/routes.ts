/** `tproxy routes`: the commands that bring packets for other hosts to a listener on this one. */

import { object } from "@optique/core/constructs";
import { optionName } from "@optique/core/message";
import { multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag, option } from "@optique/core/primitives";
import type { Family } from "../net/address.ts";
import { type IntentRequest, parseIntent } from "../routing/intent.ts";
import { makePlan, type Plan } from "../routing/plan.ts";
import { renderIptables } from "../routing/text/iptables.ts";
import { renderJson } from "../routing/text/json.ts";
import { renderNft } from "../routing/text/nft.ts";
import { examplesFooter } from "./examples.ts";
import { UsageError } from "./failure.ts";
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

const dialects = { iptables: renderIptables, nft: renderNft, json: renderJson } as const;
const familyNames = { 4: [4], 6: [6], both: [4, 6] } as const;

const fields = object({
  command: constant("routes"),
  print: withDefault(
    flag("--print", { description: prose`Print the commands; nothing is changed.` }),
    false,
  ),
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
  dialect: withDefault(
    option("--dialect", wordValue("iptables|nft|json", ["iptables", "nft", "json"]), {
      description: prose`What to print: a shell script with iptables or with nft, or the plan as
        JSON.`,
    }),
    "iptables",
  ),
  undo: withDefault(flag("--undo", { description: prose`Print the exact inverse.` }), false),
});

const footer = examplesFooter([
  ["tproxy routes --print", "tcp to 8.8.8.8 through lo, in three commands"],
  ["tproxy routes --print --dst 8.8.8.8 --in eth1 | sudo sh", "apply it at once"],
  ["tproxy routes --print --dport 80,443 --to-port 50080 --dialect nft", "TPROXY to one port"],
  ["tproxy routes --print --dst 8.8.8.8 --in eth1 --undo | sudo sh", "take it back"],
]);

/** The command `routes` for the argument parser. */
export const routesCommand = command("routes", fields, {
  brief: prose`Print the firewall and routing commands of a transparent proxy.`,
  description: prose`Prints a script that brings packets for other hosts to a listener on this
    one, or with ${optionName("--undo")} the script that takes that back. With no option about what
    to capture it is tcp to 8.8.8.8 through lo; as soon as one of ${optionName("--dst")},
    ${optionName("--src")}, ${optionName("--dport")}, ${optionName("--in")},
    ${optionName("--proto")} or ${optionName("--family")} is given, only those count. These take
    lists with commas, and may be repeated.`,
  footer,
});

/** The options of `routes` once parsed. */
export type RoutesOptions = InferValue<typeof fields>;

/** Where a command writes; injected, so that tests can read it. */
export interface Output {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
}

/** Runs `routes` and answers its exit status. Throws UsageError for options that conflict. */
export function runRoutes(options: RoutesOptions, out: Output): number {
  if (!options.print) {
    throw new UsageError(
      "routes has nothing to do: give --print, which prints the commands and changes nothing",
    );
  }
  const intent = parseIntent(toRequest(options));
  if (!intent.ok) throw new UsageError(intent.error);
  const render: (plan: Plan, how: { undo: boolean }) => string = dialects[options.dialect];
  out.stdout(render(makePlan(intent.value), { undo: options.undo }));
  return 0;
}

/** The options as an intent's fields; what was not given stays out. */
function toRequest(options: RoutesOptions): IntentRequest {
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
