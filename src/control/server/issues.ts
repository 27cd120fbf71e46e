/**
 * The problems of services that cannot be served as described, in nobody's words: the command line
 * words it with its flags, a file with its own names.
 */

import type { PlanIssue } from "../../capture/plan/contradictions.ts";
import type { Change } from "../../config/diff.ts";
import type { Obstacle } from "../../config/kernel-path.ts";
import type { Service } from "../../config/service.ts";
import type { Family } from "../../net/address.ts";
import type { IssueOf } from "../../net/issue.ts";

/** The arguments of each kind of issue; paths begin in the service. */
export interface ServiceIssueArgs {
  /** A list of networks that cannot be used. */
  "invalid-list": { readonly text: string };
  /** No interface has the name, and it is too long for one that may come. */
  "no-such-interface": { readonly name: string };
  /** Something is to be captured for listeners that accept nothing for other hosts. */
  "capture-not-transparent": Record<never, never>;
  /** Listeners have addresses of this host in one family, and would capture in the other. */
  "family-of-host": { readonly family: Family };
  /** The rules capture a family that no listener accepts. */
  "family-not-accepted": { readonly family: Family; readonly served: readonly Family[] };
  /** Rules would hand packets to one port, and the listeners have several. */
  "several-ports": { readonly ports: readonly number[] };
  /** The same of addresses. */
  "several-addresses": { readonly family: Family };
  /** NAT brings no replies back to a source that is not our own. */
  "redirected-source": { readonly source: string };
  /** There is nothing to capture, and no replies to bring back. */
  "nothing-to-capture": { readonly isSelf: boolean };
  /** The capture's mark leaves no bit for our own connections. */
  "no-guard-bit": { readonly mark: string };
  /** The mark of our own connections would have them captured. */
  "socket-mark-captures": { readonly socketMark: string; readonly mark: string };
  /** A contradiction in what is captured. */
  plan: { readonly issue: PlanIssue };
  /** The only upstreams are our own listeners. */
  "upstream-is-self": { readonly upstream: string };
  /** The kernel is to carry a service that it cannot: the first reason. */
  "not-in-kernel": Obstacle;
  /** No upstream's name has an address. */
  "no-upstream": { readonly problems: readonly string[] };
}

export type ServiceIssue = IssueOf<ServiceIssueArgs>;

/** Thrown for a configuration that a running process cannot take over: an upgrade can. */
export class UpgradeNeeded extends Error {
  readonly changes: readonly Change[];

  constructor(changes: readonly Change[]) {
    super(`an upgrade is needed: ${changes.map(({ text }) => text).join("; ")}`);
    this.changes = changes;
  }
}

/** The problem of a service whose rules would do nothing. */
export function nothingToCapture({ name, route }: Pick<Service, "name" | "route">): ServiceProblem {
  const args = { isSelf: route.source.kind === "self" };
  return new ServiceProblem(name, { path: [], code: "nothing-to-capture", args });
}

/** Thrown for a service that cannot be served as it is described. Nothing was changed. */
export class ServiceProblem extends Error {
  readonly issue: ServiceIssue;
  /** The service's name. */
  readonly service: string;

  constructor(service: string, issue: ServiceIssue) {
    super(`service ${service}: ${issue.code}`);
    this.service = service;
    this.issue = issue;
  }
}
