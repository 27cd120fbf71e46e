/** Installs the rules of all services: those of the relay, and those of the kernel path. */

import type { Configuration } from "../../config/service.ts";
import type { CarriedServices } from "../kernel-path/carried-services.ts";
import { listenersOf } from "../kernel-path/path-intent.ts";
import type { InstalledRules } from "./installed-rules.ts";
import type { Prepared } from "./preparing.ts";
import type { ApplyOptions } from "./settings.ts";

/** A server's rules. */
interface AllRules {
  readonly rules: InstalledRules;
  readonly paths: CarriedServices;
}

/** The capture that another process hands over. */
interface Predecessor {
  readonly isTakingOver: boolean;
  readonly capture: Parameters<InstalledRules["install"]>[2];
}

/** The changes, a line each. */
export async function installAll(
  { rules, paths }: AllRules,
  configuration: Configuration,
  { services, carried }: Pick<Prepared, "services" | "carried">,
  { capture, isTakingOver, closeRemoved = false }: Partial<Predecessor & ApplyOptions> = {},
): Promise<string[]> {
  const all = configuration.services.flatMap(listenersOf);
  const listeners = isTakingOver === false ? all : undefined;
  const isLooking = listeners !== undefined && configuration.routes.install === "auto";
  const left = isLooking ? await paths.findLeft(listeners) : undefined;
  rules.leaves = left?.marks ?? rules.leaves;
  // Once it is so it stays so: connections of before go on.
  rules.isBesideNat ||= carried.length > 0 || left !== undefined;
  // Those of the kernel path replace them.
  const retired = carried.length === 0 ? left : undefined;
  const changes = await rules.install(configuration, services, capture, retired);
  // Its own table of the kernel path has the name as long as the other process carries anything.
  const isNameTaken = rules.intents.length > 0 || isTakingOver === true;
  const { routes, metrics, admin } = configuration;
  const isAsked = admin.socket === undefined ? undefined : admin.socket !== "none";
  const counts = metrics === undefined ? isAsked : true;
  const own = { routes, isNameTaken, counts, listeners, retired };
  const options = { ...own, closesRemoved: closeRemoved };
  return [...changes, ...(await paths.install(carried, options))];
}

/** Removes them, but for what is to stay when the process ends. A second time it does nothing. */
export function removeAll({ rules, paths }: AllRules): void {
  rules.release();
  paths.leave();
}
