/** Decides whether the kernel carries a service, from its settings and what this host is like. */

import { type Obstacle, type PathFacts, pathObstacles } from "../../config/kernel-path.ts";
import type { Service } from "../../config/service.ts";
import { readSysctl } from "../../diagnose/snapshot/proc.ts";
import { UsageError } from "../../errors.ts";
import type { Family } from "../../net/address.ts";

/** Who carries a service, and why not the kernel. */
export interface ChosenPath {
  readonly kind: "relay" | "kernel";
  readonly obstacles: readonly Obstacle[];
}

/**
 * Chooses. `optionOf` names a setting as its author has written it.
 * @throws UsageError where the kernel path is asked for and is not possible
 */
export function choosePath(
  service: Service,
  facts: Omit<PathFacts, "forwards">,
  sets: boolean,
  optionOf: (setting: string) => string,
): ChosenPath {
  if (service.path.kind === "relay") return { kind: "relay", obstacles: [] };
  const forwards = sets ? ([4, 6] as const) : ([4, 6] as const).filter(isForwarding);
  const obstacles = pathObstacles(service, { ...facts, forwards });
  const [first] = obstacles;
  if (first === undefined) return { kind: "kernel", obstacles };
  if (service.path.kind === "auto") return { kind: "relay", obstacles };
  throw new UsageError(
    `${optionOf("path")} kernel cannot carry this: ${first.why}: ${advice(first, optionOf)}`,
  );
}

/** The log's line about a service that stays with the relay. */
export function relayLine({ obstacles }: ChosenPath, optionOf: (setting: string) => string) {
  const reasons = obstacles.map(({ setting, why }) =>
    setting === undefined ? why : `${optionOf(setting)}: ${why}`,
  );
  return `the relay carries connections, not the kernel: ${reasons.join("; ")}`;
}

function advice({ setting }: Obstacle, optionOf: (setting: string) => string): string {
  const orRelay = `or give ${optionOf("path")} relay`;
  switch (setting) {
    case undefined:
      return `set it, give ${optionOf("sysctl")}, ${orRelay}`;
    case "routes":
      return `give ${optionOf("routes")} auto, ${orRelay}`;
    case "family":
      return `add an upstream of that family, give ${optionOf("family")}, ${orRelay}`;
    case "to":
    case "listen":
      return `give another address, ${orRelay}`;
    default:
      return `leave ${optionOf(setting)} out, ${orRelay}`;
  }
}

/** Whether this host forwards packets of a family. */
function isForwarding(family: Family): boolean {
  const name = family === 4 ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding";
  return readSysctl(name) === 1;
}
