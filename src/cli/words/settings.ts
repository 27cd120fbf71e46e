/** What settings must not say at once, in the words of the command line. Pure. */

import type { Issue, IssueArgs } from "../../config/check.ts";
import { formatDuration } from "../../net/duration.ts";
import { type WordsOf, worded } from "../../net/issue.ts";
import { quote } from "../../net/result.ts";

const words: WordsOf<IssueArgs> = {
  missing: ({ setting }) => `--${setting} is missing: give it`,
  "newer-version": ({ newest }) => `the version is at most ${newest}: give that`,
  "same-name": ({ name }) => `the name ${quote(name)} is given twice: give each its own`,
  "same-socket": ({ socket, taken }) =>
    `${quote(socket)} wants the socket of ${quote(taken)}: leave one of the two out`,
  "too-many-sockets": ({ max }) => `these are more than ${max} sockets: give fewer addresses`,
  "no-such-pool": ({ name }) => `there is no pool ${quote(name)}: give one that there is`,
  "pool-and-to": () => "--to stands in the place of a pool: give one of the two",
  "pool-or-to": () => '--to is missing: give HOST:PORT or "original"',
  "of-the-pool": ({ setting }) => `--${setting} is of the pool: leave it out`,
  "upstream-protocol": ({ protocol, other }) =>
    `--to ${protocol}://… is for ${protocol} alone, and ${other} is carried too: give --to ` +
    "HOST:PORT",
  "original-alone": () => "--to original stands alone: give no other --to",
  "needs-protocol": ({ setting, protocol }) => {
    const value = setting === "send-proxy" ? " v2:every" : "";
    return `--${setting}${value} is of ${protocol.toUpperCase()}: give --${protocol} with it`;
  },
  "proxy-v1-udp": () => "--send-proxy v1 knows TCP alone: give --send-proxy v2 with --udp",
  "redirect-original-udp": () =>
    "--redirect changes where datagrams go, and does not tell: give --to HOST:PORT with --udp",
  "less-than-workers": ({ setting, count, workers }) =>
    lessThanWorkers(`--${setting}`, count, workers),
  "keepalive-range": ({ ms }) =>
    `--keepalive ${quote(formatDuration(ms))} is not accepted: give "1s" to "9h"`,
  "header-without-proxy": () => "--header-timeout is of --accept-proxy: give that with it",
  "user-with-sysctl": () =>
    "--sysctl with --user: only root can give the settings back: set them by routes --apply",
  "capture-without-routes": ({ setting }) => {
    const own = setting === "mark" ? "; the mark of our own sockets is --socket-mark" : "";
    return (
      `--${setting} is about what is captured, and nothing puts in rules for it: give ` +
      `--routes auto, or --routes print to see them${own}`
    );
  },
};

/** A bound that leaves a Worker nothing; `option` is whose bound it is. */
export function lessThanWorkers(option: string, count: number, workers: number): string {
  return (
    `${option} ${count} is less than one for each of the ${workers} workers: ` +
    `give at least ${workers}, or fewer --workers`
  );
}

/** The line that tells an issue. */
export function issueLine(issue: Issue): string {
  return worded(words, issue);
}
