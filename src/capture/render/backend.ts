/**
 * The routes that a backend needs so that its replies to spoofed clients come back here. They are
 * only ever printed: as comments under a script, and in the JSON.
 */

import { formatAddress } from "../../net/address.ts";
import type { Backend, Plan } from "../plan/plan.ts";

/** The commands for one backend. PROXY is this host's address in the backend's network. */
export function backendCommands(backend: Backend, undo: boolean): readonly string[] {
  const rules = ruleCommands(backend, undo ? "del" : "add");
  const route = words([
    ip(backend),
    `route ${undo ? "del" : "add"} default via "$PROXY" table ${backend.table}`,
    backend.protocol && `protocol ${backend.protocol}`,
  ]);
  return undo ? [...rules, route] : [route, ...rules];
}

/** The same as the last lines of a script, each a comment; none without a backend. */
export function backendLines({ backends }: Plan, undo: boolean): readonly string[] {
  return backends.map((backend) => {
    const address = formatAddress(backend.address);
    const head = [
      `Not done by this script: for the backend, to be run on ${address}. What it sends to`,
      "spoofed clients has to come back through this host, whose address there PROXY is.",
    ];
    const rule = `-----8<----- backend ${address}${undo ? ", taken back" : ""}`;
    return [rule, ...head, ...backendCommands(backend, undo)].map((text) => `# ${text}`).join("\n");
  });
}

function ruleCommands(backend: Backend, verb: "add" | "del"): readonly string[] {
  const { port, table, priority, protocol } = backend;
  const selectors =
    port === undefined
      ? [undefined]
      : backend.protocols.map((name) => `ipproto ${name} sport ${port}`);
  return selectors.map((selector) =>
    words([
      ip(backend),
      `rule ${verb}`,
      priority && `priority ${priority}`,
      `from ${formatAddress(backend.address)}`,
      selector,
      `table ${table}`,
      protocol && `protocol ${protocol}`,
    ]),
  );
}

function ip({ address }: Backend): string {
  return address.family === 4 ? "ip" : "ip -6";
}

function words(parts: readonly (string | number | false | undefined)[]): string {
  return parts.filter((part) => part).join(" ");
}
