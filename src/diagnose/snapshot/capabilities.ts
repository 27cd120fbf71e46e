/** Which capabilities this process has, by name. I/O, and no judgement. */

import {
  CAP_CHOWN,
  CAP_NET_ADMIN,
  CAP_NET_BIND_SERVICE,
  CAP_NET_RAW,
  CAP_SETGID,
  CAP_SETUID,
  CAP_SYS_ADMIN,
  CAP_SYS_RESOURCE,
} from "../../../ffi/constants.ts";
import { ownsNetwork, readCapabilities } from "../../../ffi/credentials.ts";
import { type Capability, type Held, names } from "../checks/privileges.ts";

/** The kernel's numbers (linux/capability.h). */
const numbers: Readonly<Record<Capability, number>> = {
  CAP_NET_BIND_SERVICE,
  CAP_NET_ADMIN,
  CAP_NET_RAW,
  CAP_SYS_ADMIN,
  CAP_SYS_RESOURCE,
  CAP_SETUID,
  CAP_SETGID,
  CAP_CHOWN,
};

/** As the bits of the kernel's sets. */
export function capabilityBits(wanted: Iterable<Capability>): bigint {
  return [...wanted].reduce((bits, name) => bits | (1n << BigInt(numbers[name])), 0n);
}

/** The capabilities in force, of those that matter here. */
export function effectiveCapabilities(): Set<Capability> {
  const sets = readCapabilities();
  if (typeof sets === "number") return new Set();
  return new Set(names.filter((name) => (sets.effective >> BigInt(numbers[name])) & 1n));
}

/** The same, and whether they count for the network namespace that this thread is in. */
export function heldCapabilities(): Held {
  return { effective: effectiveCapabilities(), ownsNetwork: ownsNetwork() !== false };
}

/** Those in force that count for the network namespace that this thread is in. */
export function usableCapabilities(): Set<Capability> {
  const { effective, ownsNetwork: counts } = heldCapabilities();
  return counts ? new Set(names.filter((name) => effective.has(name))) : new Set();
}
