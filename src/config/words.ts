/** Issues in the words of a configuration file. Pure. */

import { formatDuration } from "../net/duration.ts";
import { type WordsOf, worded } from "../net/issue.ts";
import { quote } from "../net/result.ts";
import { similarTo } from "../net/similar.ts";
import type { Issue, IssueArgs } from "./check.ts";
import { inside, type Located } from "./located.ts";

const words: WordsOf<IssueArgs> = {
  missing: ({ setting }) =>
    setting === "service"
      ? "there is no service: give at least one [[service]]"
      : `"${setting}" is missing`,
  "newer-version": ({ newest }) =>
    `this program knows the format up to version ${newest}: give that version`,
  "same-name": ({ name }) => `another one is called ${quote(name)}: give each a name of its own`,
  "same-socket": ({ taken, owner }) =>
    `${quote(taken)} of service ${quote(owner)} needs this socket: give another port or address`,
  "too-many-sockets": ({ max }) => `all services together need more than ${max} sockets`,
  "no-such-pool": ({ name, names }) => {
    const [meant] = similarTo(name, names);
    const guess = meant === undefined ? "" : `; did you mean ${quote(meant)}?`;
    return `there is no pool ${quote(name)}${guess}`;
  },
  "pool-and-to": () => 'a service has a pool or upstreams of its own: leave "pool" or "to" out',
  "pool-or-to": () => '"to" is missing: give to = "HOST:PORT", or the name of a pool',
  "of-the-pool": ({ setting }) => `"${setting}" is a setting of the pool: give it there`,
  "upstream-protocol": ({ protocol, other }) =>
    `${protocol}://… carries ${protocol} only, and ${other} is wanted too: give "HOST:PORT"`,
  "original-alone": () => '"original" excludes other upstreams: give no other',
  "to-and-upstream": () => '"to" is short for [[pool.upstream]]: leave "to" or those tables out',
  "pool-of-service": ({ name }) =>
    `these upstreams are a pool named ${quote(name)}, and another pool has that name: ` +
    "give the service or that pool another name",
  "needs-upstream": () => 'this needs upstreams to choose among, and the only one is "original"',
  "needs-check-type": ({ types }) => `this needs a check of type ${types.map(quote).join(" or ")}`,
  "check-without-port": () => "an upstream has no port of its own: give the port to check",
  "back-off-order": () => '"rest" is longer than "rest-max": give at most that',
  "needs-protocol": ({ protocol }) =>
    `this needs a listener for ${protocol}, and the service has none`,
  "proxy-v1-udp": () => 'version 1 supports TCP only: give "v2", or listen for TCP only',
  "redirect-original-udp": () =>
    'NAT loses the original destination of datagrams: give upstreams as "HOST:PORT"',
  "less-than-workers": ({ count, workers }) =>
    `${count} is less than one for each of the ${workers} workers: give at least ${workers}`,
  "keepalive-range": ({ ms }) => `"${formatDuration(ms)}" is not accepted: give "1s" to "9h"`,
  "header-without-proxy": () => "this needs accept-proxy",
  "user-with-sysctl": () =>
    "only root can restore settings of the kernel: leave [routes] sysctl or user out",
  "on-exit-of-relay": () =>
    'this needs a service with path = "kernel" or "auto": what the relay carries ends with it',
  "capture-without-routes": () => 'this needs [routes] install = "auto"',
};

/** The text of an issue, without its path. */
export function issueText(issue: Issue): string {
  return worded(words, issue);
}

/** A path inside a service or pool, without the text of its file: `capture.dport[1]`. */
export function pathWords(path: readonly (string | number)[]): string {
  return path
    .map((step, i) => (typeof step === "number" ? `[${step}]` : `${i === 0 ? "" : "."}${step}`))
    .join("");
}

/** A path in the words of a file: `service "web": capture.dport[1]`; empty for all of it. */
export function pathText(path: readonly (string | number)[], root: Located): string {
  const [kind, index, ...rest] = path;
  if ((kind === "service" || kind === "pool") && typeof index === "number") {
    const named = nameOf(root, kind, index);
    const owner = named === undefined ? `${kind}[${index}]` : `${kind} ${quote(named)}`;
    const inner = joined(rest, inside(root, [kind, index]));
    return inner === "" ? owner : `${owner}: ${inner}`;
  }
  return joined(path, root);
}

function joined(path: readonly (string | number)[], root: Located | undefined): string {
  let text = "";
  let here = root;
  for (const step of path) {
    if (typeof step === "string") text += text === "" ? keyText(step) : `.${keyText(step)}`;
    // A value where a list belongs has no number.
    else if (here?.kind === "list") text += `[${step}]`;
    here = here === undefined ? undefined : inside(here, [step]);
  }
  return text;
}

function keyText(key: string): string {
  return /^[A-Za-z0-9_-]{1,60}$/.test(key) ? key : quote(key);
}

function nameOf(root: Located, kind: string, index: number): string | undefined {
  const name = inside(root, [kind, index, "name"]);
  return name?.kind === "value" && typeof name.value === "string" ? name.value : undefined;
}
