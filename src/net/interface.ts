import { ok, type Parsed, quote, refuse } from "./result.ts";

/**
 * The names of interfaces that are accepted: at most 15 characters (IFNAMSIZ of linux/if.h less
 * the NUL) that mean nothing to a shell, to nft or to iptables. The kernel allows more, but a `+`
 * at the end is a wildcard to iptables and a `*` one to nft.
 */
export const interfaceName = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,14}$/;

/** Parses the name of a network interface: `lo`, `eth0`, `eth0.100`. */
export function parseInterfaceName(text: string): Parsed<string> {
  if (interfaceName.test(text)) return ok(text);
  return refuse(
    `${quote(text)} is not the name of an interface: give at most 15 letters, digits, ".", "_" ` +
      `or "-", "eth0"`,
  );
}
