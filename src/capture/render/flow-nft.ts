/** The kernel path's conditions, statements and objects as nft(8) writes them. Pure. */

import { formatAddress } from "../../net/address.ts";
import { formatEndpoint } from "../../net/endpoint.ts";
import type { Exceptable, FirewallRule, FlowMatch } from "../plan/firewall-rule.ts";
import {
  type FlowEndpoint,
  type FlowObject,
  type FlowStatement,
  hashSeed,
} from "../plan/flow-rule.ts";

/** A condition; `except` writes one that is turned round. */
export function flowMatchText(
  match: FlowMatch,
  { family }: FirewallRule,
  protocol: string | undefined,
  except: (match: Exceptable) => string,
): string {
  switch (match.kind) {
    case "flow-mark":
      return `ct mark & ${hex(match.mark.mask)} == ${hex(match.mark.value)}`;
    case "flow-state":
      return `ct state ${match.states.join(",")}`;
    case "translated":
      return "ct status dnat";
    case "untranslated":
      return "ct status & dnat == 0";
    case "source-translated":
      return "ct status snat";
    case "syn":
      return "tcp flags & (fin | syn | rst | ack) == syn";
    case "refusal":
      return "tcp flags & rst != 0 tcp sequence 0 ct direction reply";
    case "own-destination":
      return "fib daddr type local";
    case "output-interface":
      return `oifname ${listed(match.names.map((name) => `"${name}"`))}`;
    case "from-endpoint":
      return `${header(family)} saddr . ${protocol} sport @${match.set}`;
    case "unestablished":
      return (
        "ct protocol tcp ct status & assured == 0 " +
        `ct reply ${header(family)} saddr . ct reply proto-src @${match.set}`
      );
    case "except":
      return except(match.match);
  }
}

/** A statement. */
export function flowStatementText(statement: FlowStatement, rule: FirewallRule): string {
  const ip = header(rule.family);
  switch (statement.kind) {
    case "mark-flow": {
      const { value, mask } = statement.mark;
      return `ct mark set ct mark & ${hex(~mask >>> 0)} | ${hex(value)}`;
    }
    case "flow-timeout":
      return `ct timeout set "${statement.name}"`;
    case "to-upstream": {
      const { map, slots, choice } = statement;
      const number =
        choice === "turn"
          ? `numgen inc mod ${slots}`
          : `jhash ${ip} saddr mod ${slots} seed ${hex(hashSeed)}`;
      return `dnat ${ip} to ${number} map @${map}`;
    }
    case "from-address": {
      const { address } = statement;
      return `snat ${ip} to ${address === undefined ? `${ip} saddr` : formatAddress(address)}`;
    }
    case "masquerade":
      return "masquerade";
    case "reject": {
      const isTcp = rule.matches.some(
        (each) => each.kind === "protocol" && each.protocol === "tcp",
      );
      return `reject with ${isTcp ? "tcp reset" : "icmpx port-unreachable"}`;
    }
    case "drop":
      return "drop";
    case "offload":
      return `flow add @${statement.flowtable}`;
  }
}

/** The lines that declare an object within its table. */
export function flowObjectLines(object: FlowObject): readonly string[] {
  const { name } = object;
  switch (object.kind) {
    case "slots": {
      const ip = header(object.family);
      const { slots } = object;
      const elements = slots.flatMap((upstream, slot) =>
        upstream === undefined ? [] : [`${slot} : ${endpointText(upstream)}`],
      );
      return [
        `  map ${name} {`,
        `    typeof numgen inc mod ${slots.length} : ${ip} daddr . th dport`,
        ...elementLines(elements),
        "  }",
      ];
    }
    case "endpoints": {
      const elements = object.endpoints.map(endpointText);
      return [
        `  set ${name} {`,
        `    type ipv${object.family}_addr . inet_service`,
        ...elementLines(elements),
        "  }",
      ];
    }
    case "timeouts": {
      const policy = Object.entries(object.seconds).map(([state, value]) => `${state} : ${value}`);
      return [
        `  ct timeout ${name} {`,
        `    protocol ${object.protocol}; l3proto ${header(object.family)};`,
        `    policy = { ${policy.join(", ")} };`,
        "  }",
      ];
    }
    case "flowtable": {
      const devices = object.devices.map((device) => `"${device}"`).join(", ");
      return [
        `  flowtable ${name} {`,
        `    hook ingress priority 0; devices = { ${devices} }; counter;`,
        "  }",
      ];
    }
  }
}

function elementLines(elements: readonly string[]): readonly string[] {
  if (elements.length === 0) return [];
  return ["    elements = {", ...elements.map((each) => `      ${each},`), "    }"];
}

function endpointText({ address, port }: FlowEndpoint): string {
  return `${formatAddress(address)} . ${port}`;
}

/** One line about what a rule does to connections, for a script. */
export function describeFlowStatement(statement: FlowStatement): string {
  switch (statement.kind) {
    case "mark-flow":
      return `mark the connection ${hex(statement.mark.value)}/${hex(statement.mark.mask)}`;
    case "flow-timeout":
      return `use the time-outs ${statement.name}`;
    case "to-upstream":
      return statement.choice === "turn"
        ? "send to the upstream whose turn it is"
        : "send to the upstream of the client's address";
    case "from-address": {
      const { address } = statement;
      return address === undefined
        ? "keep the client's address"
        : `send from ${formatAddress(address)}`;
    }
    case "masquerade":
      return "send from an address of this host";
    case "reject":
      return "reject";
    case "drop":
      return "drop";
    case "offload":
      return "hand the flow to the flowtable";
  }
}

/** Which packets a condition is about, in words. */
export function describeFlowMatch(match: FlowMatch, except: (match: Exceptable) => string): string {
  switch (match.kind) {
    case "flow-mark":
      return `of connections marked ${hex(match.mark.value)}/${hex(match.mark.mask)}`;
    case "flow-state":
      return `of ${match.states.join(" or ")} connections`;
    case "translated":
      return "of translated connections";
    case "untranslated":
      return "of connections whose destination is not translated";
    case "source-translated":
      return "of connections whose source is translated";
    case "syn":
      return "that begin a connection";
    case "refusal":
      return "that refuse a connection";
    case "own-destination":
      return "to an address of this host";
    case "output-interface":
      return `that leave by ${match.names.join(" or ")}`;
    case "from-endpoint":
      return "from an upstream";
    case "unestablished":
      return "about connections to upstreams that are not established";
    case "except":
      return `not ${except(match.match)}`;
  }
}

function header(family: FirewallRule["family"]): string {
  return family === 4 ? "ip" : "ip6";
}

function listed(items: readonly string[]): string {
  return items.length === 1 ? (items[0] as string) : `{ ${items.join(", ")} }`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** An endpoint as the JSON of a plan has it. */
export function endpointJson(endpoint: FlowEndpoint | undefined): string | null {
  return endpoint === undefined ? null : formatEndpoint(endpoint);
}
