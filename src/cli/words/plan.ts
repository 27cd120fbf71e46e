/** Words contradictions in a request for rules as the command line's errors. Pure. */

import type { PlanIssue, PlanIssueArgs } from "../../capture/plan/contradictions.ts";
import { type WordsOf, worded } from "../../net/issue.ts";
import { quote } from "../../net/result.ts";

/** The option of each field that NAT does not use. */
const needless = {
  mark: "--mark",
  table: "--table",
  priority: "--priority",
  toAddresses: "--to-address",
  replyPath: "--reply-path",
  backends: "--backend",
  sysctl: "--sysctl",
} as const;

const words: WordsOf<PlanIssueArgs> = {
  invalid: ({ field, text }) => (field === undefined ? text : `${field}: ${text}`),
  "stray-family": ({ what, network, family, families }) =>
    `${what} "${network}" is IPv${family}, but the family is ${families.join(" and ")}: give an ` +
    `IPv${families[0]} one, or leave the family out`,
  "bare-family": ({ what, network, family, bare }) =>
    `${what} "${network}" says nothing about IPv${bare}: add an IPv${bare} ${what} ` +
    `("${bare === 4 ? "0.0.0.0/0" : "::/0"}" for every one), or capture IPv${family} alone`,
  "too-many-combinations": ({ count, max }) =>
    `${count} combinations of destination, source, port and interface are too many: give at ` +
    `most ${max}`,
  "redirect-without-port": () => "--redirect has no port to redirect to: add --to-port",
  "redirect-udp": () =>
    "--redirect cannot capture udp: NAT hides from the listener where a datagram was sent to; " +
    "capture tcp alone, or leave --redirect out",
  "redirect-needless": ({ field }) =>
    `--redirect has no use for ${needless[field]}: it works by NAT, without mark, route or ` +
    "spoofing",
  "nothing-to-hand-over": () =>
    "--to-port has nothing to hand over: the reply path alone captures nothing; say what with " +
    "--dst, --dport or --in, or leave --to-port out",
  "address-without-port": () => "--to-address has no port: add --to-port",
  "address-per-family": ({ families }) =>
    "--to-address takes one address for each family that is captured, here " +
    `${families.map((family) => `IPv${family}`).join(" and ")}: give those, or another --family`,
  "all-bypassed": ({ family }) => `nothing of IPv${family} is left to capture: bypass less of it`,
  "destinations-bypassed": ({ destination }) =>
    `nothing is left to capture: destination ${quote(destination)} is also to be bypassed; leave ` +
    "one of them out",
  "guard-without-local": () =>
    "a guard tells the proxy's own packets from those of other programs: add --local",
  "local-loop": () =>
    "--local would capture what the proxy itself sends, in a loop: add --guard-mark (its " +
    "SO_MARK), --guard-uid, --guard-gid or --guard-cgroup, or name all that it connects to with " +
    "--backend and --bypass",
  "guard-is-mark": ({ guard, mark, free }) =>
    `guard mark "${guard}" has the mark ${mark} in it, by which packets are routed to the ` +
    `listener: give another, ${free === undefined ? "and give --mark a mask" : quote(free)}`,
  "backend-family": ({ backend, family, families }) =>
    `backend "${backend}" is IPv${family}, but what is captured is IPv${families[0]}: its ` +
    `clients have addresses of its own family; add --family ${family}, or both`,
  "backend-without-port": ({ backend, example }) =>
    `backend "${backend}" is an address of this host, and all that this host sends from it would ` +
    `be taken for answers: give the port too, ${quote(example)}`,
  "sysctl-of-nothing": () =>
    "--sysctl sets nothing here: settings are made for IPv4, and for other interfaces than lo",
};

/** The text of an issue. */
export function planLine(issue: PlanIssue): string {
  return worded(words, issue);
}
