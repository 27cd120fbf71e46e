/** Issues of services in the words of a configuration file. Pure. */

import { planText } from "../../config/capture-check.ts";
import type { Obstacle } from "../../config/kernel-path.ts";
import { fileSetting, type SettingWords } from "../../config/setting-words.ts";
import { pathWords } from "../../config/words.ts";
import { type WordsOf, worded } from "../../net/issue.ts";
import { quote } from "../../net/result.ts";
import type { Lowered } from "../places.ts";
import type { ServiceIssueArgs, ServiceProblem } from "./issues.ts";

/** How a server words its problems: with flags, or with the keys of a file. */
export interface ServerWords {
  /** The line about a problem. */
  readonly problem: (problem: ServiceProblem) => string;
  /** The line about a bound that is lower than asked for. */
  readonly lowered: (service: string, lowered: Lowered) => string;
  /** The line about a service that the relay carries because of these obstacles. */
  readonly relayed: (service: string, obstacles: readonly Obstacle[]) => string;
  readonly setting: SettingWords;
  /** The setting by which such lines end the start. */
  readonly strictLimits: string;
  /** The setting that has connections come from this host. */
  readonly ownSource: string;
  /** The advice where no rule captures packets for other hosts. */
  readonly uncaptured: string;
}

const words: WordsOf<ServiceIssueArgs> = {
  "invalid-list": ({ text }) => text,
  "no-such-interface": ({ name }) =>
    `no interface here has the name ${quote(name)}, and none can get it: give at most 15 ` +
    "characters",
  "capture-not-transparent": () =>
    "without IP_TRANSPARENT, packets for other hosts are not accepted: leave transparent or " +
    "capture out",
  "family-of-host": ({ family }) =>
    `IPv${family} cannot be captured by itself, because the listeners have addresses of this ` +
    "host: give dst, dport, in or family",
  "family-not-accepted": ({ family, served }) =>
    `IPv${family} is captured, and no listener accepts it: listen at ` +
    `${family === 6 ? '"[::]:PORT"' : '":PORT"'}, or give family = "${served.join()}"`,
  "several-ports": ({ ports }) =>
    `packets cannot be handed to one listener, because there are several ports ` +
    `(${ports.slice(0, 3).join(", ")}${ports.length > 3 ? ", …" : ""}): give addresses with one ` +
    "port, or capture the ports that are listened at",
  "several-addresses": ({ family }) =>
    `packets of IPv${family} cannot be handed to one listener: give one address for it, or none ` +
    "for any",
  "redirected-source": ({ source }) =>
    `${quote(source)} excludes redirect, which brings no replies back: give "self"`,
  "nothing-to-capture": () => "no rule is needed: packets and replies arrive without any",
  "no-guard-bit": ({ mark }) =>
    `a bit of the mark has to be free for our own connections, and ${quote(mark)} leaves none: ` +
    'give [routes] mark a mask, "0x1/0x1"',
  "socket-mark-captures": ({ socketMark, mark }) =>
    `${quote(socketMark)} contains the mark ${mark}, which routes packets to the listener: give ` +
    "another",
  plan: ({ issue }) => planText(issue),
  "upstream-is-self": ({ upstream }) =>
    `${upstream} is this proxy itself: give the address of the server`,
  "not-in-kernel": ({ setting, why }) => `the kernel cannot carry this, ${why}: ${advice(setting)}`,
  "no-upstream": ({ problems }) => `not found: ${problems.join("; ")}`,
};

/** Advice about an obstacle of the kernel path. */
function advice(setting: string | undefined): string {
  const orRelay = 'or give path = "relay"';
  switch (setting) {
    case undefined:
      return `set it, give [routes] sysctl = true, ${orRelay}`;
    case "routes":
      return `give [routes] install = "auto", ${orRelay}`;
    case "family":
      return `add an upstream of that family, give capture.family, ${orRelay}`;
    case "to":
    case "listen":
      return `give another address, ${orRelay}`;
    default:
      return `leave ${setting} out, ${orRelay}`;
  }
}

/** The line about a problem of a file. */
function problemLine({ service, issue }: ServiceProblem): string {
  const where = pathWords(issue.path);
  return `service ${quote(service)}: ${where === "" ? "" : `${where}: `}${worded(words, issue)}`;
}

/** The words of a configuration file. */
export const fileWords: ServerWords = {
  problem: problemLine,
  lowered: (service, { setting, wanted, there }) =>
    `service ${quote(service)}: ${setting} = ${wanted} is lowered to ${there}, because the limit ` +
    "on descriptors is too low: raise it (LimitNOFILE=, ulimit -Hn)",
  relayed: (service, obstacles) =>
    `service ${quote(service)}: the relay carries connections, not the kernel: ` +
    obstacles.map(({ why }) => why).join("; "),
  setting: fileSetting,
  strictLimits: "strict-limits",
  ownSource: 'source = "self"',
  uncaptured: 'give [routes] install = "auto", or rules of your own',
};
