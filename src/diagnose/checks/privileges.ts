/**
 * The one place that knows which capability the kernel asks for what a command does. Pure.
 *
 * From the kernel's sources: IP_TRANSPARENT and SO_MARK take CAP_NET_ADMIN or CAP_NET_RAW
 * (do_ip_setsockopt, sk_setsockopt), a port below net.ipv4.ip_unprivileged_port_start
 * CAP_NET_BIND_SERVICE (inet_port_requires_bind_service), raw sockets CAP_NET_RAW, rtnetlink,
 * nf_tables and /proc/sys/net CAP_NET_ADMIN. All of them in the user namespace that owns the
 * network namespace.
 */

import { formatPortRange, type PortRange } from "../../net/port.ts";

export const names = [
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_ADMIN",
  "CAP_SYS_RESOURCE",
  "CAP_SETUID",
  "CAP_SETGID",
  "CAP_CHOWN",
] as const;
export type Capability = (typeof names)[number];

/** The rights of a process. */
export interface Held {
  readonly effective: ReadonlySet<string>;
  /** Its user namespace owns its network namespace: only then its capabilities count there. */
  readonly ownsNetwork: boolean;
}

/** Something that the kernel allows to holders of a capability only. */
export interface Need {
  /** Each of them alone is enough. */
  readonly anyOf: readonly Capability[];
  /** The action that fails without it: `bind tcp://0.0.0.0:80`. */
  readonly action: string;
  /** The feature that needs it, in the plural or as an option's name: `ports below 1024`. */
  readonly subject: string;
  /** The alternative to getting the capability. */
  readonly instead?: string;
  /** The consequence, where the command is useful without it. */
  readonly otherwise?: string;
}

const TRANSPARENT = ["CAP_NET_ADMIN", "CAP_NET_RAW"] as const;
const LOW_PORT = ["CAP_NET_BIND_SERVICE"] as const;

/** The options of a socket that take a capability. */
export interface SocketWish {
  /** `tcp://8.8.8.8:80`. */
  readonly name: string;
  /** 0: the kernel chooses one. */
  readonly port: number;
  readonly transparent: boolean;
  readonly marked?: boolean;
}

/**
 * The capabilities to bind a socket. `portStart` is net.ipv4.ip_unprivileged_port_start, for both
 * families; undefined if it cannot be read, and then it is left to the kernel.
 */
export function bindNeeds(wish: SocketWish, portStart: number | undefined): Need[] {
  const action = `bind ${wish.name}`;
  const { port, transparent, marked = false } = wish;
  const isLow = port > 0 && portStart !== undefined && port < portStart;
  return [
    ...(transparent ? [{ anyOf: TRANSPARENT, action, subject: "IP_TRANSPARENT" }] : []),
    ...(marked ? [{ anyOf: TRANSPARENT, action, subject: "SO_MARK" }] : []),
    ...(isLow ? [lowPort(action, portStart)] : []),
  ];
}

/** The capability that every transparent socket needs. */
export const transparentNeeds: readonly Need[] = bindNeeds(
  { name: "", port: 0, transparent: true },
  undefined,
);

/** The capability that a refused port needs. */
export function lowPort(action: string, portStart: number): Need {
  const instead = `choose a port from ${portStart}`;
  return { anyOf: LOW_PORT, action, subject: `ports below ${portStart}`, instead };
}

/** The capabilities to send UDP answers from the destinations that clients asked for. */
export interface AnswerWish {
  /** The ports of the listeners: through these answers leave without a bind. */
  readonly listeners: readonly number[];
  /** The captured ports; undefined if rules of others decide, empty for every port. */
  readonly captured: readonly PortRange[] | undefined;
}

/** Answers from another port than the listener's take a socket bound there, or a raw one. */
export function answerNeeds(wish: AnswerWish, portStart: number | undefined): Need[] {
  if (portStart === undefined) return [];
  const { listeners, captured } = wish;
  const all = captured === undefined || captured.length === 0;
  const others = (all ? [{ from: 1, to: 65535 } as PortRange] : captured).filter(
    ({ from, to }) => from !== to || !listeners.includes(from),
  );
  const low = others.filter(({ from }) => from < portStart);
  if (low.length === 0) return [];
  const isAll = low.length === captured?.length && low.every(({ to }) => to < portStart);
  const ports = all ? `ports below ${portStart}` : `port ${low.map(formatPortRange).join(",")}`;
  const need: Need = {
    anyOf: ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"],
    action: "answer",
    subject: `UDP answers from ${ports}`,
    instead: `set net.ipv4.ip_unprivileged_port_start=${Math.min(...low.map(({ from }) => from))}`,
  };
  if (isAll) return [need];
  return [{ ...need, otherwise: "clients that asked such a port get no answer" }];
}

/** The capability to keep clients' ports towards upstreams. */
export function clientPortNeeds(portStart: number | undefined): Need[] {
  if (!portStart) return [];
  const subject = `clients' ports below ${portStart}`;
  const otherwise = "such clients are connected from another port";
  return [{ anyOf: LOW_PORT, action: "connect", subject, otherwise }];
}

/** The capability for ip rules, routes and nf_tables; `action` as in `apply routes`. */
export function ruleNeeds(action: string): Need[] {
  return [{ anyOf: ["CAP_NET_ADMIN"], action, subject: "ip rules and nf_tables" }];
}

/** The capabilities to become another user; `givesSockets`: that user gets open sockets. */
export function userNeeds(name: string, givesSockets: boolean): Need[] {
  const action = `become user ${name}`;
  const chown: Need = { anyOf: ["CAP_CHOWN"], action, subject: "changes of a socket's owner" };
  return [
    ...(givesSockets ? [chown] : []),
    { anyOf: ["CAP_SETUID"], action, subject: "changes of the user" },
    { anyOf: ["CAP_SETGID"], action, subject: "changes of the group" },
  ];
}

/** The actions of a running proxy that need a capability. */
export interface Running {
  /** It carries TCP, UDP. */
  readonly tcp: boolean;
  readonly udp: boolean;
  /** Its listeners are transparent: UDP answers leave from whatever address was asked. */
  readonly transparent: boolean;
  /** Upstreams see an address that is not ours. */
  readonly spoofs: boolean;
  readonly keepsPorts: boolean;
  readonly marks: boolean;
  /** It puts back rules, and takes them away at its end. */
  readonly rules: boolean;
  /** Pipes of 1 MiB that a user may have by fs.pipe-user-pages-soft are fewer than wanted. */
  readonly manyPipes: boolean;
  /** net.core.rmem_max is less than the queues of busy UDP sessions. */
  readonly largeQueues: boolean;
  /** SO_MARK takes CAP_NET_ADMIN, as before Linux 5.17. */
  readonly oldMarks: boolean;
}

/** The needs of a proxy that has been started. */
export function runningNeeds(running: Running): Need[] {
  const { udp, transparent, spoofs, keepsPorts, marks, rules } = running;
  const when = (condition: boolean, anyOf: readonly Capability[], subject: string): Need[] =>
    condition ? [{ anyOf, action: "run", subject }] : [];
  return [
    ...when(rules, ["CAP_NET_ADMIN"], "ip rules and nf_tables"),
    ...when(marks && running.oldMarks, ["CAP_NET_ADMIN"], "SO_MARK"),
    ...when(marks && !running.oldMarks, TRANSPARENT, "SO_MARK"),
    ...when(spoofs || (udp && transparent), TRANSPARENT, "IP_TRANSPARENT"),
    ...when(udp && transparent, LOW_PORT, "UDP answers from ports below 1024"),
    ...when(keepsPorts, LOW_PORT, "clients' ports below 1024"),
    ...when(udp, ["CAP_NET_RAW"], "raw packets: answers, and ICMP errors to clients"),
    ...when(udp && running.largeQueues, ["CAP_NET_ADMIN"], "queues beyond net.core.rmem_max"),
    ...when(running.tcp && running.manyPipes, ["CAP_SYS_RESOURCE"], "pipes that splice needs"),
  ];
}

/** The fewest of the capabilities held that meet `needs`, as far as these can be met. */
export function fewest(needs: readonly Need[], held: ReadonlySet<string>): Set<Capability> {
  const possible = needs.map(({ anyOf }) => anyOf.filter((name) => held.has(name)));
  const kept = new Set(possible.filter(({ length }) => length === 1).flat());
  for (const choice of possible) {
    if (choice.length > 1 && !choice.some((name) => kept.has(name))) {
      kept.add(choice.toSorted((a, b) => power.indexOf(a) - power.indexOf(b))[0] as Capability);
    }
  }
  return kept;
}

/** From the one that can do least harm. */
const power: readonly Capability[] = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_NET_ADMIN"];

/** Those that are not met. */
export function unmet(needs: readonly Need[], held: Held): Need[] {
  return needs.filter(
    ({ anyOf }) => !held.ownsNetwork || !anyOf.some((name) => held.effective.has(name)),
  );
}

/** Why `needs`, none of which is met, are not, and what would do: the end of a line. */
export function explainUnmet(needs: readonly Need[], held: Held): string {
  const instead = [...new Set(needs.flatMap((need) => need.instead ?? []))];
  const first = new Set(needs.map(({ anyOf }) => anyOf[0] as Capability));
  const ways = [...instead, waysTo([...first])].join(", or ");
  return `${explainReasons(needs, held)}: ${ways}`;
}

/** The same without what would do. */
export function explainReasons(needs: readonly Need[], { effective }: Held): string {
  const reasons = [...new Set(needs.map(reasonOf))];
  const all = [...new Set(needs.flatMap(({ anyOf }) => anyOf))];
  const foreign = all.filter((name) => effective.has(name)).join(" and ");
  const none = all.length === 1 ? "does not have it" : "has none of them";
  const lacks =
    foreign === ""
      ? `this process ${all.length === 2 && reasons.length === 1 ? "has neither" : none}`
      : `this process has ${foreign}, but not in the user namespace of its network`;
  const [effect] = needs.flatMap(({ otherwise }) => otherwise ?? []);
  return `${reasons.join(", ")}, and ${lacks}${effect === undefined ? "" : `, so ${effect}`}`;
}

/** `IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW`. */
function reasonOf({ subject, anyOf }: Need): string {
  const verb = /^[A-Z_]+$/.test(subject) ? "needs" : "need";
  return `${subject} ${verb} ${anyOf.join(" or ")}`;
}

/** The advice for a user without the capabilities. */
function waysTo(capabilities: readonly Capability[]): string {
  return (
    `run it with sudo, from a service with AmbientCapabilities=${capabilities.join(" ")}, ` +
    'or try it in a namespace of your own: "unshare -Urn"'
  );
}
