/**
 * The addresses of a name: from hosts(5), then from the DNS, as resolv.conf(5) says. Not by
 * getaddrinfo(3), whose sockets nobody can mark: what this host sends may be captured, and then a
 * look-up of our own would come to our own listener. It also tells no times to live. What other
 * services nsswitch.conf(5) names is not asked.
 */

import { closeSync, constants, openSync, readFileSync, readSync } from "node:fs";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark } from "../../ffi/types.ts";
import { randomWord } from "../engine/random.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { isDomainName, type Reply } from "../proto/dns.ts";
import { exchange } from "./dns-exchange.ts";
import { candidates, hostsOf, parseResolvConf, type ResolverSettings } from "./resolver-files.ts";

/** The known addresses of a name. */
export interface NameAnswer {
  readonly addresses: readonly Address[];
  /** Undefined: nobody said, as in hosts(5). */
  readonly ttlSeconds: number | undefined;
  /** Families of which no server has said whether there are addresses. */
  readonly unanswered: readonly (4 | 6)[];
  /** Why there are no addresses; empty if there are. */
  readonly problem: string;
}

/** The mark of the moment: that of a capture may be known only after a look-up has begun. */
export type MarkOf = () => Mark | undefined;

const DNS_PORT = 53;

/** Of hosts(5) and resolv.conf(5). */
const fileBytesMax = 1024 * 1024;

/** When one family is found, how long the other one is still awaited. */
const otherFamilyMs = 500;

/** Looks up `name`. What `mark` returns is the mark of the sockets that ask (SO_MARK). */
export async function lookUp(name: string, mark: MarkOf): Promise<NameAnswer> {
  const known = hostsOf(textOf("/etc/hosts"), name);
  if (known.length > 0) {
    return { addresses: known, ttlSeconds: undefined, unanswered: [], problem: "" };
  }
  const settings = parseResolvConf(textOf("/etc/resolv.conf"));
  let answer = nothing("it is no domain name");
  for (const candidate of candidates(name, settings)) {
    if (!isDomainName(candidate)) continue;
    answer = await askAll(candidate, settings, mark);
    if (answer.addresses.length > 0 || answer.unanswered.length > 0) break;
  }
  return answer;
}

/** The socket address of a zone's interface index (`%eth0`, `%2`); 0 without one, -1 if unknown. */
export function scopeOf({ zone }: Address): number {
  if (zone === undefined) return 0;
  try {
    return Number(readFileSync(`/sys/class/net/${zone}/ifindex`, "latin1"));
  } catch {
    return /^[0-9]+$/.test(zone) ? Number(zone) : -1;
  }
}

/** Asks the servers in turn until both families are known, or one is found. */
async function askAll(name: string, settings: ResolverSettings, mark: MarkOf): Promise<NameAnswer> {
  const { servers, attempts, rotate } = settings;
  const first = rotate ? randomWord() % servers.length : 0;
  const replies = new Map<4 | 6, Reply>();
  const failures = new Set<string>();
  for (let turn = 0; turn < attempts * servers.length; turn++) {
    const server = servers[(first + turn) % servers.length] as Address;
    const pending = ([4, 6] as const).filter((family) => !isSettled(replies.get(family)));
    const deadline = { at: performance.now() + settings.timeoutMs };
    const ask = async (family: 4 | 6) => {
      const reply = await askOne(server, { name, family }, { settings, mark, deadline });
      replies.set(family, reply);
      const soon = performance.now() + otherFamilyMs;
      if (reply.kind === "found") deadline.at = Math.min(deadline.at, soon);
      if (reply.kind === "failed") failures.add(`${formatAddress(server)}: ${reply.reason}`);
    };
    await Promise.all(pending.map(ask));
    const all = [...replies.values()];
    if (all.every(isSettled) || all.some(({ kind }) => kind === "found")) break;
  }
  const addresses: Address[] = [];
  let ttlSeconds: number | undefined;
  for (const reply of replies.values()) {
    if (reply.kind !== "found") continue;
    addresses.push(...reply.addresses);
    ttlSeconds = Math.min(ttlSeconds ?? reply.ttlSeconds, reply.ttlSeconds);
  }
  const unanswered = ([4, 6] as const).filter((family) => !isSettled(replies.get(family)));
  const absent = `${servers.map(formatAddress).join(", ")}: it has no address`;
  const problem = unanswered.length > 0 ? [...failures].join("; ") : absent;
  return { addresses, ttlSeconds, unanswered, problem: addresses.length > 0 ? "" : problem };
}

interface Manner {
  readonly settings: ResolverSettings;
  readonly mark: MarkOf;
  readonly deadline: { at: number };
}

async function askOne(
  server: Address,
  question: { readonly name: string; readonly family: 4 | 6 },
  { settings, mark, deadline }: Manner,
): Promise<Reply> {
  const scopeId = scopeOf(server);
  if (scopeId < 0) return { kind: "failed", reason: `there is no interface ${server.zone}` };
  const to: SocketAddress = { address: server.bytes, port: DNS_PORT, scopeId };
  const ask = (protocol: "tcp" | "udp") =>
    exchange(to, { ...question, id: randomWord() & 0xffff }, { protocol, mark: mark(), deadline });
  const reply = await ask(settings.useTcp ? "tcp" : "udp");
  if (reply.kind !== "truncated") return reply;
  const complete = await ask("tcp");
  return complete.kind === "truncated" ? { kind: "failed", reason: "truncated" } : complete;
}

/** Whether a server has said what there is to know. */
function isSettled(reply: Reply | undefined): boolean {
  return reply?.kind === "found" || reply?.kind === "absent";
}

function nothing(problem: string): NameAnswer {
  return { addresses: [], ttlSeconds: undefined, unanswered: [], problem };
}

/** Reads a file up to a bound; nothing if it cannot be read. Never waits for a writer. */
function textOf(path: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = Buffer.alloc(fileBytesMax);
    let length = 0;
    for (let count = -1; count !== 0 && length < bytes.length; length += count) {
      count = readSync(fd, bytes, length, bytes.length - length, null);
    }
    return bytes.toString("utf8", 0, length);
  } catch {
    return "";
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
