/** The settings of a pool: its upstreams, and when they get connections. Pure. */

import { checkIntervalMsMin, upstreamsMax } from "../engine/limits.ts";
import { ok, quote, refuse } from "../net/result.ts";
import { integer, list, required, setting, table, text, word, yesNo } from "./kinds.ts";
import { balance, durationPattern, name, upstream, upstreams } from "./settings-values.ts";
import { numberSyntax, positiveDurationSyntax, type Syntax } from "./syntax.ts";

const time = text(positiveDurationSyntax, { examples: ["2s"], pattern: durationPattern });
/** Not so often that the checks are a load of their own. */
const intervalSyntax: Syntax<number> = {
  parse: (given) => {
    const duration = positiveDurationSyntax.parse(given);
    return duration.ok && duration.value < checkIntervalMsMin
      ? refuse(`${quote(given)} is too short: give at least "${checkIntervalMsMin}ms"`)
      : duration;
  },
  format: positiveDurationSyntax.format,
};
const interval = text(intervalSyntax, { examples: ["2s"], pattern: durationPattern });
const slowStart = text(positiveDurationSyntax, { examples: ["30s"], pattern: durationPattern });

/** Bytes of a datagram: text, or `hex:` with two digits a byte. */
const payload: Syntax<string> = {
  parse: (given) => {
    if (given.length === 0 || given.length > 1_024) {
      return refuse(`${quote(given)} is not accepted: give 1 to 1024 characters`);
    }
    const isHex = given.startsWith("hex:");
    if (!isHex || /^hex:([0-9a-fA-F]{2})+$/.test(given)) return ok(given);
    return refuse(`${quote(given)} is not accepted: give two digits a byte, "hex:00ff"`);
  },
  format: (given) => given,
};

/** The bytes that a payload stands for. */
export function payloadBytes(given: string): Uint8Array {
  return given.startsWith("hex:")
    ? Uint8Array.fromHex(given.slice(4))
    : new TextEncoder().encode(given);
}

/** What a line of a request may hold: no blank, and nothing that ends the line. */
const printable = (what: string, first: RegExp): Syntax<string> => ({
  parse: (given) =>
    first.test(given) && /^[!-~]{1,1000}$/.test(given)
      ? ok(given)
      : refuse(`${quote(given)} is not accepted: give ${what}`),
  format: (given) => given,
});

/** Statuses of HTTP from one to another. */
export interface StatusRange {
  readonly from: number;
  readonly to: number;
}

const status: Syntax<StatusRange> = {
  parse: (given) => {
    const [first = "", last = first, more] = given.split("-");
    const { parse } = numberSyntax(100, 599);
    const [from, to] = [parse(first), parse(last)];
    if (more === undefined && from.ok && to.ok && from.value <= to.value) {
      return ok({ from: from.value, to: to.value });
    }
    return refuse(`${quote(given)} is not accepted: give a status or a range, "200-399"`);
  },
  format: ({ from, to }) => (from === to ? `${from}` : `${from}-${to}`),
};

const check = table({
  type: required(
    word("tcp", "tls", "http", "udp", "none"),
    "What an upstream has to do: be connected, answer a TLS or HTTP request, or a datagram; " +
      "none: it is not checked.",
  ),
  port: setting(integer(1, 65535), "The port to check, where it is not the upstream's own."),
  interval: setting(interval, "How often each address is checked; four times as often meanwhile."),
  timeout: setting(time, "How long one check may take."),
  rise: setting(integer(1, 100), "Successes in a row after which an upstream is up."),
  fall: setting(integer(1, 100), "Failures in a row after which an upstream is down."),
  jitter: setting(integer(0, 50), "By how many percent each interval varies at random."),
  path: setting(
    text(printable('a path, "/health"', /^\//), {
      examples: ["/health"],
      pattern: /^\/[!-~]{0,999}$/,
    }),
    "With http: the path that is requested.",
  ),
  host: setting(
    text(printable('a name or an address, "web.example"', /^./), { examples: ["web.example"] }),
    "With http and tls: the name of the host that is asked for.",
  ),
  status: setting(
    list(text(status, { examples: ["200-399", "204"], integers: true }), 100),
    "With http: the statuses of an upstream that is well.",
  ),
  send: setting(
    text(payload, { examples: ["ping", "hex:00ff"] }),
    "With udp: the datagram that is sent, as text or behind hex: in hexadecimal digits.",
  ),
  expect: setting(
    text(payload, { examples: ["pong", "hex:00ff"] }),
    "With udp: what the reply has to contain; anything if it is missing.",
  ),
});

const passive = table({
  failures: setting(integer(1, 1_000), "Failures in a row after which an upstream backs off."),
  rest: setting(time, "How long it backs off the first time, and twice that each next time."),
  "rest-max": setting(time, "How long it backs off at most."),
});

/** What a pool has that may stand in [defaults] as well. */
export const poolDefaults = {
  balance: setting(balance, "Which of several upstreams a connection gets."),
  "on-down": setting(
    word("keep", "close"),
    "Keep or close the open connections of an upstream that is down.",
  ),
  "when-all-down": setting(
    word("try", "refuse"),
    "With no upstream left: try the one that has been down longest, or reject connections.",
  ),
  passive: setting(passive, "When an upstream backs off because connecting to it fails."),
  check: setting(check, "Ask each upstream at intervals whether it is well."),
};

const pooled = table({
  name: setting(name, "The name of the upstream; what to says, if it is missing."),
  to: required(upstream, "The upstream: HOST:PORT, HOST for the port asked for, or original."),
  weight: setting(integer(0, 256), "Its share among the others, 100 if it is missing; 0: none."),
  backup: setting(yesNo, "Give it connections only while no other one can have them."),
  "slow-start": setting(slowStart, "Raise its share bit by bit for so long after it came up."),
});

/** A pool, of `to` alone or of tables of upstreams. */
export const pool = table({
  name: required(name, "The name of the pool, which no other one has."),
  to: setting(
    upstreams,
    "The upstreams: HOST:PORT, HOST, or original; short for [[pool.upstream]].",
  ),
  upstream: setting(list(pooled, upstreamsMax), "An upstream, with its weight."),
  ...poolDefaults,
});

type GivenBy<K> = K extends { readonly write: (value: infer T) => unknown } ? T : never;

export type CheckSettings = GivenBy<typeof check>;
export type PooledSettings = GivenBy<typeof pooled>;
