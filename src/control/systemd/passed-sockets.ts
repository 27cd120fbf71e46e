/**
 * Sockets that the service manager passes at the start (sd_listen_fds(3)): of `.socket` units, and
 * those that an earlier process of the service has stored there. The reading of the variables and
 * of names is pure.
 */

import type { Service } from "../../config/service.ts";

/** A descriptor that was passed, with its name; "" without one. */
export interface PassedDescriptor {
  readonly fd: number;
  readonly name: string;
}

/** The first of them (SD_LISTEN_FDS_START). */
const firstFd = 3;
/** More than any limit on descriptors allows. */
const countMax = 1_000_000;

/** The variables that sd_listen_fds(3) reads. */
const variables = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"] as const;

/** The descriptors for process `pid`; none if they are another one's, which left the variables. */
export function passedDescriptors(env: NodeJS.ProcessEnv, pid: number): PassedDescriptor[] {
  const { LISTEN_PID, LISTEN_FDS = "", LISTEN_FDNAMES = "" } = env;
  if (LISTEN_PID !== String(pid) || !/^[0-9]{1,7}$/.test(LISTEN_FDS)) return [];
  const names = LISTEN_FDNAMES.split(":");
  const count = Math.min(Number(LISTEN_FDS), countMax);
  return Array.from({ length: count }, (_, index) => ({
    fd: firstFd + index,
    name: names[index] ?? "",
  }));
}

/** Takes the variables out of `env`: programs that are started from here get no such sockets. */
export function forgetPassed(env: NodeJS.ProcessEnv): void {
  for (const name of variables) delete env[name];
}

/** The name under which socket `index` of a service is stored. */
export function storedName(service: string, index: number): string {
  return `tproxy.${service}.${index}`;
}

/** Whether a descriptor has such a name. `tproxy.socket`, a unit's own name, is none. */
export function isStored(name: string): boolean {
  return /^tproxy\..+\.[0-9]+$/.test(name) || name === "stored";
}

/** A service, or one of its listeners. */
export interface NamedPlace {
  readonly service: Service;
  readonly index: number | undefined;
}

/**
 * What `FileDescriptorName=` names: `service` or `service.index`, counted from 0 in the order of
 * `listen`. Undefined: any listener with its address, for the name is one that the manager gives
 * where the unit has none (the unit's own, `unknown`). A text has the reason why the name is wrong.
 */
export function placeOf(
  name: string,
  services: readonly Service[],
): NamedPlace | undefined | string {
  if (name === "" || name === "unknown" || name.endsWith(".socket")) return undefined;
  const whole = services.find((service) => service.name === name);
  if (whole !== undefined) return { service: whole, index: undefined };
  const [, before = "", digits = ""] = /^(.+)\.([0-9]{1,4})$/.exec(name) ?? [];
  const service = services.find((each) => each.name === before);
  if (service === undefined) {
    return "no service has this name: FileDescriptorName= takes SERVICE or SERVICE.INDEX";
  }
  const index = Number(digits);
  const last = service.listen.length - 1;
  if (index > last) return `service ${before} has listeners 0 to ${last}`;
  return { service, index };
}
