/**
 * The options about the capture, which `routes`, `doctor` and `forward` share, and the request for
 * an Intent that they make.
 */

import { type Message, optionName } from "@optique/core/message";
import { multiple, optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { flag, option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import type { BackendRequest, IntentRequest } from "../../capture/plan/intent.ts";
import { defined, requestOf } from "../../config/request.ts";
import type { CaptureSettings, RoutesSettings } from "../../config/settings.ts";
import { realNames } from "../../control/interface-names.ts";
import { placed } from "../../control/server/backends.ts";
import { UsageError } from "../../errors.ts";
import { type Address, formatAddress, parseAddress } from "../../net/address.ts";
import { formatEndpoint, parseEndpoint } from "../../net/endpoint.ts";
import { ok, quote, refuse } from "../../net/result.ts";
import { networkSourceValue } from "../network-lists.ts";
import { prose } from "../prose.ts";
import { unknownInterface } from "../words/service.ts";
import { inGroup } from "./groups.ts";
import { groupIdValue, userIdValue } from "./id-values.ts";
import {
  interfacePatternValue,
  listValue,
  makeValue,
  maskedMarkValue,
  numberValue,
  portRangeValue,
  portValue,
  type Value,
  wordValue,
} from "./values.ts";

/** A flag, off by default. */
function yes(name: `--${string}`, description: Message) {
  return withDefault(flag(name, { description }), false);
}

/** An address alone, without a zone. */
function addressValue(): Value<Address> {
  return makeValue<Address>({
    metavar: "ADDR",
    placeholder: { family: 4, bytes: new Uint8Array(4) },
    parse: parseAddress,
    format: formatAddress,
  });
}

/** An address with or without a port: `192.0.2.7`, `192.0.2.7:80`, `[2001:db8::7]:80`. */
function backendValue(): Value<BackendRequest> {
  return makeValue<BackendRequest>({
    metavar: "ADDR[:PORT]",
    placeholder: { address: { family: 4, bytes: new Uint8Array(4) }, port: undefined },
    parse: (input) => {
      const bare = parseAddress(input);
      if (bare.ok) return ok({ address: bare.value, port: undefined });
      const parsed = parseEndpoint(input, { addressRequired: true });
      if (!parsed.ok) return refuse(parsed.error);
      const { address, port } = parsed.value;
      if (address !== undefined && address.zone === undefined) return ok({ address, port });
      return refuse(`${quote(input)} is not accepted: give an address without a zone`);
    },
    format: ({ address, port }) =>
      port === undefined ? formatAddress(address) : formatEndpoint({ address, port }),
  });
}

/** The fields for a command's `object({ … })`. */
export const captureFields = {
  ...inGroup("What to capture", {
    dst: multiple(
      option("--dst", listValue(networkSourceValue()), {
        description: prose`Capture packets to these addresses or networks. ${"@FILE"} reads them
          from a file, ${"@-"} from standard input. By default every unicast address that is not
          this host's own; ${"0.0.0.0/0"} and ${"::/0"} include the host's own.`,
      }),
    ),
    src: multiple(
      option("--src", listValue(networkSourceValue()), {
        description: prose`Capture packets from these addresses or networks only.`,
      }),
    ),
    dport: multiple(
      option("--dport", listValue(portRangeValue()), {
        description: prose`Capture packets to these ports only, such as ${"80,8000-9000"}.`,
      }),
    ),
    in: multiple(
      option("--in", listValue(interfacePatternValue()), {
        description: prose`Capture packets that arrive on these interfaces only. ${"eth*"}: on every
          interface whose name begins with "eth".`,
      }),
    ),
    proto: multiple(
      option("--proto", listValue(wordValue("tcp|udp", ["tcp", "udp"])), {
        description: prose`Capture these protocols; tcp by default.`,
      }),
    ),
    family: optional(
      option("--family", wordValue("4|6|both", ["4", "6", "both"]), {
        description: prose`Capture these IP versions. By default those of the given addresses, or
          both if none are given.`,
      }),
    ),
    local: yes(
      "--local",
      prose`Also capture what programs of this host send to other hosts. One of the guards must
        exempt the proxy's own packets.`,
    ),
  }),
  ...inGroup("What to leave alone", {
    bypass: multiple(
      option("--bypass", listValue(networkSourceValue()), {
        description: prose`Do not capture packets to these addresses or networks, whatever the other
          options say.`,
      }),
    ),
    bypassPrivate: yes(
      "--bypass-private",
      prose`Do not capture packets to private, shared, loopback, link-local, multicast and reserved
        networks.`,
    ),
    guardMark: optional(
      option("--guard-mark", maskedMarkValue(), {
        description: prose`With ${optionName("--local")}: exempt sockets with this mark, the SO_MARK
          of the proxy.`,
      }),
    ),
    guardUid: multiple(
      option("--guard-uid", listValue(userIdValue()), {
        description: prose`With ${optionName("--local")}: exempt the sockets of these users, such as
          ${"www-data"} or ${"33"}.`,
      }),
    ),
    guardGid: multiple(
      option("--guard-gid", listValue(groupIdValue()), {
        description: prose`With ${optionName("--local")}: exempt the sockets of these groups, by
          name or number.`,
      }),
    ),
    guardCgroup: multiple(
      option("--guard-cgroup", string({ metavar: "PATH" }), {
        description: prose`With ${optionName("--local")}: exempt the sockets of this control group,
          such as ${"system.slice/tproxy.service"}. The group must exist already.`,
      }),
    ),
  }),
  ...inGroup("Where captured packets go", {
    toPort: optional(
      option("--to-port", portValue(), {
        description: prose`Hand the packets to a listener on this port, by TPROXY. Without it the
          rules only mark the packets, and the listener needs the port that they are sent to.`,
      }),
    ),
    toAddress: multiple(
      option("--to-address", listValue(addressValue()), {
        description: prose`With ${optionName("--to-port")}: the address that the listener is bound
          to, such as ${"127.0.0.1"}; one for each family.`,
      }),
    ),
    redirect: yes(
      "--redirect",
      prose`Redirect to the listener on ${optionName("--to-port")} by NAT, for kernels without
        TPROXY. TCP only; SO_ORIGINAL_DST gives the original destination.`,
    ),
  }),
  ...inGroup("Replies of backends", {
    replyPath: yes(
      "--reply-path",
      prose`Also bring back replies to the connections that the proxy makes from its clients'
        addresses: TCP, and connected UDP sockets. Without options about what to capture, do only
        that: it is all that a reverse proxy needs.`,
    ),
    backend: multiple(
      option("--backend", listValue(backendValue()), {
        description: prose`A backend that sees the clients' addresses; it needs
          ${optionName("--reply-path")}. For one on this host, bring its replies back. For one
          elsewhere, print as comments which routes it needs through this host.`,
      }),
    ),
  }),
  ...inGroup("Names in the kernel, and its settings", {
    mark: optional(
      option("--mark", maskedMarkValue(), {
        description: prose`The mark of captured packets; ${"0x1/0x1"} by default. A mark without a
          mask replaces all 32 bits.`,
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
    tableName: optional(
      option("--table-name", string({ metavar: "NAME" }), {
        description: prose`The name of the firewall table, which must begin with ${"tproxyd"}. Give
          each set-up its own; its mark, table and priority are then chosen free of others', unless
          you give them.`,
      }),
    ),
    sysctl: yes(
      "--sysctl",
      prose`Set the kernel settings that let packets and replies in, and restore the old values on
        removal. Without it they are only named.`,
    ),
  }),
} as const;

/** The options once parsed. */
export type CaptureOptions = {
  readonly [Name in keyof typeof captureFields]: InferValue<(typeof captureFields)[Name]>;
};

/** The options without those about the destination of captured packets. */
type SelectionOptions = Omit<
  CaptureOptions,
  "proto" | "toPort" | "toAddress" | "redirect" | "replyPath" | "backend"
>;

/** The options as settings of a service's capture, without what was not given. */
export function captureSettingsOf(options: SelectionOptions): CaptureSettings {
  return given({
    dst: flat(options.dst),
    src: flat(options.src),
    dport: flat(options.dport),
    in: flat(options.in),
    family: options.family,
    bypass: flat(options.bypass),
    "bypass-private": options.bypassPrivate || undefined,
    local: options.local || undefined,
    "guard-mark": options.guardMark,
    "guard-uid": flat(options.guardUid),
    "guard-gid": flat(options.guardGid),
    "guard-cgroup": options.guardCgroup.length === 0 ? undefined : options.guardCgroup,
  });
}

/** The options as settings of the rules of all services. */
export function routesSettingsOf(options: SelectionOptions): RoutesSettings {
  const { mark, table, priority, tableName, sysctl } = options;
  return given({
    ...{ mark, table, priority },
    "table-name": tableName,
    sysctl: sysctl || undefined,
  });
}

/**
 * The options as an intent's fields, without what was not given. Call it after files of lists have
 * been read. It replaces alternative names of interfaces and reports that to `say`.
 * @throws UsageError
 */
export function toRequest(
  options: CaptureOptions,
  say: (line: string) => void = () => {},
): IntentRequest {
  const capture = captureSettingsOf(options);
  return defined({
    ...captureRequestOf(capture, routesSettingsOf(options), say),
    protocols: flat(options.proto),
    replyPath: options.replyPath || undefined,
    toPort: options.toPort,
    toAddresses: flat(options.toAddress),
    redirect: options.redirect || undefined,
    backends: flat(options.backend)?.map(placed),
  });
}

/** The same of what is captured alone. @throws UsageError */
function captureRequestOf(
  capture: CaptureSettings,
  routes: RoutesSettings,
  say: (line: string) => void = () => {},
): IntentRequest {
  const request = requestOf(capture, routes);
  if (!request.ok) throw new UsageError(request.error);
  const { interfaces } = request.value;
  if (interfaces === undefined) return request.value;
  const refuse = (name: string): never => {
    throw new UsageError(unknownInterface(name));
  };
  return { ...request.value, interfaces: realNames(interfaces, say, refuse) };
}

/** Joins the lists of an option that was given several times. */
function flat<T>(lists: readonly (readonly T[])[]): T[] | undefined {
  return lists.length === 0 ? undefined : lists.flat();
}

/** The properties with a value. */
export type Defined<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

/** An object without the properties that have none. */
export function given<T extends object>(values: T): Defined<T> {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Defined<T>;
}
