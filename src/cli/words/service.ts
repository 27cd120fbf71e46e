/** Issues of the service of `forward`, in the words of the command line. Pure. */

import { type ServiceIssueArgs, ServiceProblem } from "../../control/server/issues.ts";
import type { ServerWords } from "../../control/server/words.ts";
import { CommandError, UsageError } from "../../errors.ts";
import { type WordsOf, worded } from "../../net/issue.ts";
import { quote } from "../../net/result.ts";
import { loweredLine } from "../strict-limits.ts";
import { flagSetting } from "./flag-setting.ts";
import { planLine } from "./plan.ts";

/** The line about an interface that none can be. */
export function unknownInterface(name: string): string {
  return (
    `--in: no interface here has the name ${quote(name)}, and none can get it: give ` +
    "at most 15 characters"
  );
}

const words: WordsOf<ServiceIssueArgs> = {
  "invalid-list": ({ text }) => text,
  "no-such-interface": ({ name }) => unknownInterface(name),
  "capture-not-transparent": () =>
    "--routes and --no-transparent exclude each other: without IP_TRANSPARENT, packets for " +
    "other hosts are not accepted; leave one of them out",
  "family-of-host": ({ family }) =>
    `--routes cannot capture for IPv${family}, where listeners have addresses of this ` +
    "host: say what is captured with --dst, --dport or --in, or give --family",
  "family-not-accepted": ({ family, served }) =>
    `The rules capture IPv${family}, and no listener accepts it: give ` +
    `${family === 6 ? '"[::]:PORT"' : '":PORT"'}, or --family ${served.join()}`,
  "several-ports": ({ ports }) =>
    `--routes cannot tell which listener is meant, ` +
    `${ports.map((port) => `port ${port}`).join(" or ")}: give addresses with one port`,
  "several-addresses": ({ family }) =>
    `--routes cannot tell which listener is meant for IPv${family}: give one address for it, ` +
    "or none for any",
  "redirected-source": ({ source }) =>
    `--source ${quote(source)} excludes --redirect, which brings no replies back: give --source ` +
    "self, or leave --redirect out",
  "nothing-to-capture": ({ isSelf }) =>
    "--routes has no rules to install: packets to an address of this host arrive without them" +
    `${isSelf ? ", and so do replies of upstreams" : ""}; give --dst, --dport ` +
    "or --in to capture more, or leave --routes out",
  "no-guard-bit": ({ mark }) =>
    "--local needs a free bit of the mark for our own connections, and --mark " +
    `${quote(mark)} leaves none: give it a mask, "0x1/0x1"`,
  "socket-mark-captures": ({ socketMark, mark }) =>
    `--socket-mark "${socketMark}" contains the mark ${mark}, ` +
    "which routes packets to the listener: give another",
  plan: ({ issue }) => planLine(issue),
  "upstream-is-self": ({ upstream }) =>
    `--to ${upstream} is this proxy itself: give the address of the server`,
  "not-in-kernel": ({ setting, why }) =>
    `--path kernel cannot carry this, ${why}: ${advice(setting)}`,
  "no-upstream": ({ problems }) => `--to: not found: ${problems.join("; ")}`,
};

/** Advice about an obstacle of the kernel path. */
function advice(setting: string | undefined): string {
  const orRelay = "or give --path relay";
  switch (setting) {
    case undefined:
      return `set it, give --sysctl, ${orRelay}`;
    case "routes":
      return `give --routes auto, ${orRelay}`;
    case "family":
      return `add an upstream of that family, give --family, ${orRelay}`;
    case "to":
    case "listen":
      return `give another address, ${orRelay}`;
    default:
      return `leave --${setting} out, ${orRelay}`;
  }
}

/** A problem of the service as one line; any other error as it is. */
export function inFlags(error: unknown): unknown {
  if (!(error instanceof ServiceProblem)) return error;
  const Told = error.issue.code === "no-upstream" ? CommandError : UsageError;
  return new Told(serviceLine(error));
}

/** The line that tells a problem. */
function serviceLine({ issue }: ServiceProblem): string {
  return worded(words, issue);
}

/** The words of `forward`. */
export const flagWords: ServerWords = {
  problem: serviceLine,
  lowered: (_, lowered) => loweredLine(lowered),
  relayed: (_, obstacles) =>
    `the relay carries connections, not the kernel: ${obstacles.map(({ why }) => why).join("; ")}`,
  setting: flagSetting,
  strictLimits: "--strict-limits",
  ownSource: "--source self",
  uncaptured: 'give --routes auto, or see "tproxy routes --help"',
};
