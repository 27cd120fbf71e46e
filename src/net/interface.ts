import { ok, type Parsed, quote, refuse } from "./result.ts";

/**
 * The names of interfaces that are accepted: at most 15 characters (IFNAMSIZ of linux/if.h less
 * the NUL) that mean nothing to a shell, to nft or to iptables. The kernel allows more, but a `+`
 * at the end is a wildcard to iptables and a `*` one to nft.
 */
export const interfaceName = /^(?=.{1,15}$)[A-Za-z0-9_][A-Za-z0-9._@+=~^-]*(?<!\+)$/;
/** Up to 14 characters that a name begins with, and a `*`. */
const prefix = /^(?=.{2,15}$)[A-Za-z0-9_][A-Za-z0-9._@=~^-]*\*$/;
/** An alternative name (`ip link property add altname`): up to 127 characters (ALTIFNAMSIZ). */
const alternative = /^[A-Za-z0-9_][A-Za-z0-9._@+=~^-]{0,126}(?<!\+)$/;

/** Parses the name of a network interface: `lo`, `eth0`, `eth0.100`. */
export function parseInterfaceName(text: string): Parsed<string> {
  if (interfaceName.test(text)) return ok(text);
  return refuse(`${quote(text)} is not the name of an interface: give ${accepted}`);
}

/** Parses the name of an interface, an alternative one too, or how names begin: `eth*`. */
export function parseInterfacePattern(text: string): Parsed<string> {
  if (isPattern(text) || alternative.test(text)) return ok(text);
  return refuse(
    `${quote(text)} is not the name of an interface: give ${accepted}, or how names begin, "eth*"`,
  );
}

const accepted = 'at most 15 letters, digits, ".", "_" or "-", "eth0"';

/** Whether rules can match it: a name, or how names begin. */
export function isPattern(text: string): boolean {
  return interfaceName.test(text) || prefix.test(text);
}

/** Whether it stands for all interfaces whose names begin so. */
export function isPrefix(pattern: string): boolean {
  return pattern.endsWith("*");
}

/** Whether an interface of this name is meant. */
export function patternMatches(pattern: string, found: string): boolean {
  return isPrefix(pattern) ? found.startsWith(pattern.slice(0, -1)) : found === pattern;
}
