/** `tproxy explain`: the kernel's own decisions about an address, with this machine's values. */

import { object } from "@optique/core/constructs";
import { commandLine } from "@optique/core/message";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { explainAccept } from "../../diagnose/explain/accept.ts";
import { explainBind } from "../../diagnose/explain/bind.ts";
import { explainConnect } from "../../diagnose/explain/connect.ts";
import type { Explanation } from "../../diagnose/explain/explanation.ts";
import { addressType } from "../../diagnose/policy.ts";
import { renderExplanation } from "../../diagnose/report.ts";
import { likelyInterface, neighbour } from "../../diagnose/sample.ts";
import { usableCapabilities } from "../../diagnose/snapshot/capabilities.ts";
import { gatherConnect } from "../../diagnose/snapshot/connect-facts.ts";
import type { HostSnapshot } from "../../diagnose/snapshot/host.ts";
import { gatherPath } from "../../diagnose/snapshot/path-facts.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import { type Address, formatAddress, parseAddress } from "../../net/address.ts";
import { printJson } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import {
  interfaceValue,
  makeValue,
  schemedEndpointValue,
  type Value,
  wordValue,
} from "../options/values.ts";
import { prose } from "../prose.ts";
import { machineOrError } from "../read-host.ts";
import { withWholeRepairs } from "../whole-repairs.ts";

const fields = object({
  command: constant("explain"),
  ...inGroup("Arguments", {
    what: argument(wordValue("bind|accept|connect", ["bind", "accept", "connect"]), {
      description: prose`What to explain: how the kernel decides a ${"bind"} to the address, how a
        listener here comes to ${"accept"} connections to it, or a ${"connect"} to it.`,
    }),
    address: argument(schemedEndpointValue({ portZero: true }), {
      description: prose`The address and port: ${"8.8.8.8:80"}, ${"udp://8.8.8.8:53"}.`,
    }),
  }),
  ...inGroup("Options", {
    udp: withDefault(flag("--udp", { description: prose`UDP instead of TCP.` }), false),
    in: optional(
      option("--in", interfaceValue(), {
        description: prose`accept: the interface that clients' packets arrive on; by default that of
          the default route.`,
      }),
    ),
    from: optional(
      option("--from", addressValue(), {
        description: prose`accept: the client's address. connect: the source address, which need not
          be this host's.`,
      }),
    ),
    freebind: withDefault(
      flag("--freebind", { description: prose`bind: with IP_FREEBIND.` }),
      false,
    ),
    noTransparent: withDefault(
      flag("--no-transparent", { description: prose`bind: without IP_TRANSPARENT.` }),
      false,
    ),
    json: withDefault(
      flag("--json", { description: prose`Print one JSON object, on one line.` }),
      false,
    ),
  }),
});

const footer = examplesFooter([
  ["tproxy explain bind 8.8.8.8:80 --no-transparent", "each condition of the kernel's bind"],
  ["sudo tproxy explain accept 8.8.8.8:80 --in eth1", "mark, rule, route, socket, answer"],
  ["sudo tproxy explain connect 192.0.2.7:80 --from 10.0.0.5", "and the way back"],
]);

/** The command `explain` for the argument parser. */
export const explainCommand = command("explain", fields, {
  usageLine: usageLine("[OPTIONS] bind|accept|connect [ADDR]:PORT"),
  brief: prose`Show how the kernel decides about an address, with this host's values.`,
  description: prose`Prints each decision of the kernel with its reason, and a last sentence: it
    will work, or it will not. It changes and sends nothing; ${commandLine("tproxy doctor")} prints
    repairs. ${commandLine("tproxy explain forward --help")} follows a whole service.`,
  footer,
});

export type ExplainOptions = InferValue<typeof fields>;

/** An IP address without a port. */
function addressValue(): Value<Address> {
  return makeValue({
    metavar: "ADDR",
    placeholder: { family: 4, bytes: new Uint8Array(4) },
    parse: (text) => parseAddress(text),
    format: formatAddress,
  });
}

/** Runs `explain`; the exit status is 1 if it will not work. @throws UsageError */
export async function runExplain(
  options: ExplainOptions,
  io: ProcessIo,
  args: readonly string[],
): Promise<number> {
  checkIgnored(options);
  const machine = machineOrError();
  if (options.in !== undefined && !machine.links.some(({ name }) => name === options.in)) {
    throw new UsageError(`--in: there is no interface "${options.in}" here: see "ip link"`);
  }
  const found = explain(options, machine);
  const explanation = { ...found, steps: withWholeRepairs(found.steps, args) };
  await io.stdout.write(
    options.json
      ? `${printJson({ what: options.what, ...explanation })}\n`
      : renderExplanation(explanation, io.stdout),
  );
  return explanation.works ? exitStatus.success : exitStatus.failure;
}

/** Refuses what would be ignored. @throws UsageError */
function checkIgnored(options: ExplainOptions): void {
  const { what } = options;
  const belongs = [
    { name: "--in", given: options.in !== undefined, to: ["accept"] },
    { name: "--from", given: options.from !== undefined, to: ["accept", "connect"] },
    { name: "--freebind", given: options.freebind, to: ["bind"] },
    { name: "--no-transparent", given: options.noTransparent, to: ["bind"] },
  ];
  for (const { name, given, to } of belongs) {
    if (!given || to.includes(what)) continue;
    throw new UsageError(`${name} is for ${to.join(" and ")}, not for ${what}: leave it out`);
  }
}

function explain(options: ExplainOptions, machine: HostSnapshot): Explanation {
  const { address, port } = options.address.endpoint;
  if (options.what === "bind") return bindOf(options, machine);
  if (address === undefined || port === 0) {
    throw new UsageError(`explain ${options.what} needs an address and a port: "8.8.8.8:80"`);
  }
  if (options.from !== undefined && options.from.family !== address.family) {
    throw new UsageError(
      `"${formatAddress(options.from)}" is IPv${options.from.family}, and the address is ` +
        `IPv${address.family}: give --from an IPv${address.family} one`,
    );
  }
  return options.what === "accept"
    ? acceptOf(options, address, machine)
    : connectOf(options, address, machine);
}

function protocolOf({ udp, address }: ExplainOptions): "tcp" | "udp" {
  return udp || address.scheme === "udp" ? "udp" : "tcp";
}

function bindOf(options: ExplainOptions, machine: HostSnapshot): Explanation {
  const { address, port } = options.address.endpoint;
  const protocol = protocolOf(options);
  const family = address?.family ?? 4;
  const version = family === 4 ? "ipv4" : "ipv6";
  const { routes } = machine.policy[family];
  return explainBind({
    address,
    port,
    protocol,
    transparent: !options.noTransparent,
    freebind: options.freebind,
    capabilities: usableCapabilities(),
    nonlocalBind: machine.sysctl(`net.${version}.ip_nonlocal_bind`) === 1,
    unprivilegedPortStart: machine.sysctl("net.ipv4.ip_unprivileged_port_start") ?? 1024,
    addressType: address === undefined ? RTN_LOCAL : addressType(routes, address),
    hasAddress: machine.addresses.some((each) => {
      return address !== undefined && Buffer.compare(each.address, address.bytes) === 0;
    }),
    sockets: machine.sockets[protocol],
  });
}

function acceptOf(
  options: ExplainOptions,
  destination: Address,
  machine: HostSnapshot,
): Explanation {
  const { family } = destination;
  const iif = options.in ?? likelyInterface(machine, family);
  const source = options.from ?? neighbour(machine, iif, family);
  const protocol = protocolOf(options);
  const { port } = options.address.endpoint;
  return explainAccept(
    gatherPath(machine, {
      packet: { protocol, source, destination, port, iif },
      capture: undefined,
    }),
  );
}

function connectOf(options: ExplainOptions, to: Address, machine: HostSnapshot): Explanation {
  return explainConnect(
    gatherConnect(machine, {
      protocol: protocolOf(options),
      to,
      port: options.address.endpoint.port,
      from: options.from,
      owner: { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 },
      capabilities: usableCapabilities(),
    }),
  );
}
