/** Why a connection or session ended: one list, which the log, JSON and counters share. Pure. */

import {
  type CallFailure,
  describeErrno,
  describeFailure,
  ECONNREFUSED,
  ECONNRESET,
  EPIPE,
} from "../../ffi/errno.ts";

/**
 * By the word that JSON has, the text for people. The order is that of the codes in records. A word
 * stands for TCP and UDP, and for `listen` and `forward`; programs compare it, so it stays.
 */
export const endReasons = {
  /** Both sides have ended, or `listen` has answered. */
  done: "",
  /** A side has reset it. */
  reset: "reset",
  /** A side's socket, or a system call of ours, has failed. */
  failed: "failed",
  /** An ICMP error: a session's datagrams do not arrive. */
  unreachable: "unreachable",
  "connect-failed": "connecting failed",
  "connect-timeout": "connect timeout",
  "no-upstream": "no upstream",
  /** There is no way to connect to the upstream in its client's name. */
  "dial-rejected": "not connected",
  "idle-timeout": "idle timeout",
  "idle-shortened": "idle timeout, shortened for lack of room",
  stopped: "stopped",
  /** Its service or its upstream is no longer in the configuration. */
  removed: "removed from the configuration",
  /** A check or the administrator has taken the upstream down. */
  down: "its upstream is down",
  /** By `tproxy kill`, or who else has asked the admin socket for it. */
  killed: "killed by an administrator",
  evicted: "ended to make room: its client had the most connections",
  stalled: "ended to free memory: its reader had stalled",
  "no-place": "refused: no room, and its client has as many connections as any",
  /** It has waited for a place as long as connecting may take. */
  "no-room": "refused: as many connections are open as may be",
  "client-limit": "refused: its client has as many connections as it may have",
  "client-rate": "refused: its client opens connections faster than it may",
  loop: "loop: our own connection came back",
  /** It has gone round by way of other proxies. */
  "hop-limit": "loop: its hop limit is used up",
  /** Nobody can be at an end that it names: port 0, a multicast address. */
  "invalid-address": "refused: nobody can be at this address",
  /** So much arrives that newcomers are not let in. */
  overloaded: "refused: more arrives than can be carried",
  "proxy-sender": "PROXY protocol: not from an allowed sender",
  "proxy-header-timeout": "PROXY protocol: header timeout",
  "proxy-header-invalid": "PROXY protocol: invalid header",
  "proxy-header-unsent": "PROXY protocol: the header was not taken",
} as const;

export type EndReason = keyof typeof endReasons;

/** By their code in records. */
export const endReasonList = Object.keys(endReasons) as EndReason[];

/** By reason, the code. */
export const endReasonCodes = Object.fromEntries(
  endReasonList.map((reason, code) => [reason, code]),
) as Record<EndReason, number>;

/**
 * Who ended a connection or session, by their code in records. Of the kernel's data path it is
 * often unknown.
 */
export const endedByList = ["client", "upstream", "proxy", "unknown"] as const;
export type EndedBy = (typeof endedByList)[number];

export interface End {
  readonly reason: EndReason;
  readonly by: EndedBy;
  /** The errno, and the call that failed with it; the call is empty where a socket has it. */
  readonly failure: CallFailure | undefined;
  /** Details beyond the reason; often empty. */
  readonly detail: string;
}

/** How one ended. `by` is the proxy unless a side did it. */
export function ended(
  reason: EndReason,
  by: EndedBy = "proxy",
  failure?: CallFailure,
  detail = "",
): End {
  return { reason, by, failure, detail };
}

/** The end of a connection that cannot be made in its client's name; `detail` has the reason. */
export function dialRejected(detail: string): End {
  return ended("dial-rejected", "proxy", undefined, detail);
}

/** The end of a connection whose socket to one side has failed. */
export function socketFailed(by: EndedBy, errno: number): End {
  const isReset = errno === ECONNRESET || errno === EPIPE;
  return ended(isReset ? "reset" : "failed", by, { call: "", errno });
}

const refusals: ReadonlySet<EndReason> = new Set([
  "no-place",
  "no-room",
  "client-limit",
  "client-rate",
  "loop",
  "hop-limit",
  "invalid-address",
  "overloaded",
  "proxy-sender",
]);

/** Whether it was rejected before it was carried. */
export function isRefusal(reason: EndReason): boolean {
  return refusals.has(reason);
}

/** Whether nothing failed. UDP has no end of its own, so to be silent is a session's usual end. */
export function isUsual({ reason }: End, protocol: "tcp" | "udp"): boolean {
  if (protocol === "tcp") return reason === "done";
  return reason === "idle-timeout" || reason === "stopped" || reason === "removed";
}

/** Where a session's text is another than a connection's. */
const sessionTexts: Partial<Record<EndReason, string>> = {
  "idle-timeout": "idle",
  evicted: "evicted",
};

/** The text in the log for people. */
export function endText({ reason, by, failure, detail }: End, protocol: "tcp" | "udp"): string {
  if (detail !== "") return detail;
  if (failure !== undefined && failure.call !== "") return describeFailure(failure);
  switch (reason) {
    case "done":
      return by === "unknown" ? "ended" : `ended by ${by}`;
    case "reset":
      return by === "unknown" ? "reset" : `reset by ${by}`;
    case "failed":
    case "unreachable":
      return failure === undefined ? endReasons[reason] : `${wordOf(reason, failure)} by ${by}`;
    default:
      return (protocol === "udp" ? sessionTexts[reason] : undefined) ?? endReasons[reason];
  }
}

function wordOf(reason: EndReason, { errno }: CallFailure): string {
  return reason === "unreachable" ? icmpText(errno) : describeErrno(errno);
}

/** The text of an ICMP error, by the errno that the kernel makes of it. */
export function icmpText(errno: number): string {
  return errno === ECONNREFUSED ? "refused" : describeErrno(errno);
}
