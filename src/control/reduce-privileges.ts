/**
 * What a command that serves gives up once all is open: the user, capabilities, and that programs
 * could win any. In place, so that what it has opened stays: libc's setresuid reaches every thread,
 * and Workers are made afterwards by the main thread, which keeps what is needed.
 */

import { release } from "node:os";
import {
  becomeUser,
  disarmOtherThreads,
  keepCapabilities,
  limitCapabilities,
} from "../../ffi/credentials.ts";
import { describeErrno } from "../../ffi/errno.ts";
import type { Service } from "../config/service.ts";
import { fewest, type Need, type Running, runningNeeds } from "../diagnose/checks/privileges.ts";
import { capabilityBits, effectiveCapabilities } from "../diagnose/snapshot/capabilities.ts";
import { readSysctl } from "../diagnose/snapshot/proc.ts";
import { flowBufferBytes, pipeBytes, pipesMax } from "../engine/limits.ts";
import { CommandError } from "../errors.ts";
import type { Scheme } from "../net/target.ts";
import type { User } from "./passwd.ts";

/** The privileges that a process keeps. */
export interface Remaining {
  readonly needs: readonly Need[];
  /** Undefined: the user that has started it. */
  readonly user: User | undefined;
}

/** Of a command whose only socket is open. */
export const nothing: Remaining = { needs: [], user: undefined };

/** The needs of `forward` once it runs. */
export function forwardRunning(service: Service, installsRules: boolean): Need[] {
  const { listen, ingress, route, dial, capture } = service;
  const { source } = route;
  const protocols = listen.map(({ protocol }) => protocol);
  return needsOf({
    tcp: protocols.includes("tcp"),
    udp: protocols.includes("udp"),
    transparent: ingress.transparent,
    spoofs: source.kind !== "self",
    keepsPorts: source.kind === "client" && source.keepPort,
    marks:
      dial.mark !== undefined ||
      capture["guard-mark"] !== undefined ||
      (capture.local === true && installsRules),
    rules: installsRules,
  });
}

/** The possible needs of a reload, whatever the configuration is now. */
export const reloadNeeds: readonly Need[] = (
  ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"] as const
).map((name) => ({ anyOf: [name], action: "reload", subject: "a later configuration" }));

/** The needs of `listen`. */
export function listenRunning(protocols: readonly Scheme[], transparent: boolean): Need[] {
  const [tcp, udp] = [false, protocols.includes("udp")];
  return needsOf({ tcp, udp, transparent, ...plain });
}

const plain = { spoofs: false, keepsPorts: false, marks: false, rules: false } as const;

function needsOf(running: Omit<Running, "manyPipes" | "largeQueues" | "oldMarks">): Need[] {
  const pages = readSysctl("fs.pipe-user-pages-soft") ?? 0;
  const queue = readSysctl("net.core.rmem_max") ?? 0;
  const [major = 0, minor = 0] = release().split(".").map(Number);
  return runningNeeds({
    ...running,
    manyPipes: pages > 0 && pages * 4096 < pipesMax * pipeBytes,
    largeQueues: queue < flowBufferBytes,
    oldMarks: major < 5 || (major === 5 && minor < 17),
  });
}

/**
 * Gives up all else, for good. Before Workers are made.
 * @throws CommandError if the kernel refuses
 */
export function reducePrivileges({ needs, user }: Remaining): void {
  const kept = capabilityBits(fewest(needs, effectiveCapabilities()));
  limitCapabilities(kept);
  const changes = user !== undefined && user.uid !== process.getuid?.();
  const result = changes ? becomeUser(user.uid, user.gid, user.groups) : disarmOtherThreads();
  if (result < 0) refuse(changes ? `become user ${user.name}` : "give up privileges", result);
  const left = keepCapabilities(kept);
  if (left < 0) refuse("give up privileges", left);
}

function refuse(what: string, result: number): never {
  throw new CommandError(`Cannot ${what}: ${describeErrno(-result)}`);
}
