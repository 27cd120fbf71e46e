/** Reads resolv.conf(5) and hosts(5) as glibc does: text in, settings out. */

import { type Address, parseAddress } from "../net/address.ts";

/** How names are looked up. */
export interface ResolverSettings {
  /** At most three; the resolver of this host where none is named. */
  readonly servers: readonly Address[];
  /** Domains that are tried behind a name, at most six. */
  readonly search: readonly string[];
  /** A name with so many dots is tried as it is first. */
  readonly ndots: number;
  /** How long one server may take. */
  readonly timeoutMs: number;
  /** How often all of them are asked. */
  readonly attempts: number;
  /** They take turns. */
  readonly rotate: boolean;
  /** Asked over TCP alone. */
  readonly useTcp: boolean;
}

const serversMax = 3;
const searchMax = 6;
/** The addresses of one name in hosts(5). */
const addressesMax = 64;

const LOOPBACK: Address = { family: 4, bytes: Uint8Array.of(127, 0, 0, 1) };
const LOOPBACK_V6: Address = { family: 6, bytes: new Uint8Array(16).fill(1, 15) };

/** The settings in the text of resolv.conf(5); of each option the last one counts. */
export function parseResolvConf(text: string): ResolverSettings {
  const servers: Address[] = [];
  let search: readonly string[] = [];
  const options = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (/^\s*[#;]/.test(line)) continue;
    const [word, ...values] = line.trim().split(/\s+/);
    if (word === "nameserver" && values[0] !== undefined) {
      const address = parseAddress(values[0], { zone: true });
      if (address.ok && servers.length < serversMax) servers.push(address.value);
    } else if (word === "search") search = values;
    else if (word === "domain") search = values.slice(0, 1);
    else if (word === "options") {
      for (const value of values) {
        const [name = "", number = ""] = value.split(":");
        options.set(name, number);
      }
    }
  }
  const number = (name: string, usual: number, min: number, max: number) => {
    const value = Number.parseInt(options.get(name) ?? "", 10);
    return Number.isNaN(value) ? usual : Math.min(Math.max(value, min), max);
  };
  return {
    servers: servers.length === 0 ? [LOOPBACK] : servers,
    search: search.filter((domain) => domain !== ".").slice(0, searchMax),
    ndots: number("ndots", 1, 0, 15),
    timeoutMs: 1000 * number("timeout", 5, 1, 30),
    attempts: number("attempts", 2, 1, 5),
    rotate: options.has("rotate"),
    useTcp: options.has("use-vc"),
  };
}

/** The addresses of `name` in the text of hosts(5); localhost has its own in any case. */
export function hostsOf(text: string, name: string): readonly Address[] {
  const wanted = name.replace(/\.$/, "").toLowerCase();
  const found: Address[] = [];
  for (const line of text.split("\n")) {
    const [address = "", ...names] = (line.split("#", 1)[0] as string).trim().split(/\s+/);
    if (!names.some((each) => each.toLowerCase() === wanted)) continue;
    const parsed = parseAddress(address, { zone: true });
    if (parsed.ok && found.length < addressesMax) found.push(parsed.value);
  }
  if (found.length > 0) return found;
  // RFC 6761, section 6.3: never asked of the DNS.
  return /(^|\.)localhost$/.test(wanted) ? [LOOPBACK, LOOPBACK_V6] : [];
}

/** The names that are asked for in turn, each complete. */
export function candidates(name: string, { search, ndots }: ResolverSettings): readonly string[] {
  if (name.endsWith(".")) return [name.slice(0, -1)];
  const completed = search.map((domain) => `${name}.${domain.replace(/\.$/, "")}`);
  const dots = name.split(".").length - 1;
  return dots >= ndots ? [name, ...completed] : [...completed, name];
}
