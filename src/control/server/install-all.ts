/** Installs the rules of all services: those of the relay, and those of the kernel path. */

import type { Configuration } from "../../config/service.ts";
import type { CarriedServices } from "../kernel-path/carried-services.ts";
import type { InstalledRules } from "./installed-rules.ts";
import type { Prepared } from "./preparing.ts";

/** A server's rules. */
interface AllRules {
  readonly rules: InstalledRules;
  readonly paths: CarriedServices;
}

/** The changes, a line each. `capture` is what another process hands over. */
export async function installAll(
  { rules, paths }: AllRules,
  configuration: Configuration,
  { services, carried }: Pick<Prepared, "services" | "carried">,
  capture?: Parameters<InstalledRules["install"]>[2],
): Promise<string[]> {
  const changes = await rules.install(configuration, services, capture);
  const options = { routes: configuration.routes, hasCapture: rules.intents.length > 0 };
  return [...changes, ...(await paths.install(carried, options))];
}

/** Removes them. A second time it does nothing. */
export function removeAll({ rules, paths }: AllRules): void {
  rules.release();
  paths.release();
}
