/** Words contradictions in settings as the command line's errors. Pure. */

import type { Issue, IssueArgs } from "../../config/check.ts";
import { formatDuration } from "../../net/duration.ts";
import { type WordsOf, worded } from "../../net/issue.ts";
import { quote } from "../../net/result.ts";

const words: WordsOf<IssueArgs> = {
  missing: ({ setting }) => `--${setting} is missing: give it`,
  "newer-version": ({ newest }) => `the format has versions up to ${newest}: give one of those`,
  "same-name": ({ name }) => `the name ${quote(name)} is given twice: give each its own`,
  "same-socket": ({ socket, taken }) =>
    `${quote(socket)} needs the socket of ${quote(taken)}: give one of them`,
  "too-many-sockets": ({ max }) => `these addresses need more than ${max} sockets: give fewer`,
  "no-such-pool": ({ name }) => `no pool has the name ${quote(name)}: give one that exists`,
  "pool-and-to": () => "--to and a pool exclude each other: give one of them",
  "pool-or-to": () => '--to is missing: give HOST:PORT or "original"',
  "of-the-pool": ({ setting }) => `--${setting} is a setting of the pool: leave it out`,
  "upstream-protocol": ({ protocol, other }) =>
    `--to ${protocol}://… carries ${protocol} only, and ${other} is wanted too: give HOST:PORT`,
  "original-alone": () => "--to original excludes other upstreams: give no other --to",
  "to-and-upstream": () => "--to and upstreams with settings exclude each other: give one of them",
  "pool-of-service": ({ name }) => `the name ${quote(name)} is given twice: give each its own`,
  "needs-upstream": ({ setting }) => `--${setting} needs --to HOST:PORT`,
  "needs-check-type": ({ setting, types }) => `${setting} needs a check of ${types.join(" or ")}`,
  "check-without-port": () => "an upstream without a port needs a port to check: give it",
  "back-off-order": () => "the first back-off is longer than the longest: give at most that",
  "needs-protocol": ({ setting, protocol }) => {
    const value = setting === "send-proxy" ? " v2:every" : "";
    return `--${setting}${value} needs --${protocol}`;
  },
  "proxy-v1-udp": () => "--send-proxy v1 supports TCP only: give --send-proxy v2 with --udp",
  "redirect-original-udp": () =>
    "--redirect loses the original destination of datagrams: give --to HOST:PORT with --udp",
  "less-than-workers": ({ setting, count, workers }) =>
    lessThanWorkers(`--${setting}`, count, workers),
  "keepalive-range": ({ ms }) =>
    `--keepalive ${quote(formatDuration(ms))} is not accepted: give "1s" to "9h"`,
  "header-without-proxy": () => "--header-timeout needs --accept-proxy",
  "user-with-sysctl": () =>
    "--sysctl excludes --user, because only root can restore the settings: set them with " +
    '"tproxy routes --apply --sysctl"',
  "on-exit-of-relay": () =>
    "--on-exit needs --path kernel or --path auto: what the relay carries ends with it",
  "capture-without-routes": ({ setting }) => {
    const own = setting === "mark" ? "; the mark of our own sockets is --socket-mark" : "";
    return `--${setting} needs --routes auto or --routes print${own}`;
  },
};

/** The error for a bound below the number of Workers; `option` sets it. */
export function lessThanWorkers(option: string, count: number, workers: number): string {
  return (
    `${option} ${count} is less than one for each of the ${workers} workers: ` +
    `give at least ${workers}, or fewer --workers`
  );
}

/** The text of an issue. */
export function issueLine(issue: Issue): string {
  return worded(words, issue);
}
