/** How values of settings are written: on the command line and in a file alike. */

import type { Mark } from "../../ffi/types.ts";
import { neverMs, workersMax } from "../engine/limits.ts";
import { formatBytes, parseAddress } from "../net/address.ts";
import { type Cidr, formatCidr, parseCidr } from "../net/cidr.ts";
import { formatDuration, parseDuration } from "../net/duration.ts";
import { formatMark, fullMask, parseMark } from "../net/mark.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";
import { similarTo } from "../net/similar.ts";
import { formatTarget, parsePortless, parseTarget, type Target } from "../net/target.ts";
import type { NetworkFile } from "./networks.ts";

/** How values of a type are read from text and written as text. */
export interface Syntax<T> {
  readonly parse: (text: string) => Parsed<T>;
  /** The text that `parse` reads back. */
  readonly format: (value: T) => string;
}

/**
 * Where a connection goes: a host and port, a host alone (port 0: the port that the client wanted),
 * or where the client wanted to go.
 */
export type UpstreamTarget = Target | "original";

/** Which of several upstreams a connection gets. */
export type Balance = "round-robin" | "least-connections" | "source-hash";

/** The source address towards the upstream. */
export type SourceChoice =
  | { readonly kind: "client"; readonly keepPort: boolean }
  | { readonly kind: "self" }
  | { readonly kind: "address"; readonly address: Uint8Array };

/** A network, or a file with a list of them. */
export type NetworkSource = Cidr | NetworkFile;

/** A decimal number from `min` to `max`, both included. */
export function numberSyntax(min: number, max: number): Syntax<number> {
  return {
    parse: (text) => {
      const value = Number(text);
      if (/^(0|[1-9][0-9]{0,9})$/.test(text) && value >= min && value <= max) return ok(value);
      return refuse(`${quote(text)} is not accepted: give a number from ${min} to ${max}`);
    },
    format: String,
  };
}

/** One of a few words. */
export function wordSyntax<const Word extends string>(words: readonly Word[]): Syntax<Word> {
  return {
    parse: (text) => {
      const found = words.find((candidate) => candidate === text);
      if (found !== undefined) return ok(found);
      const [meant] = similarTo(text, words);
      const guess = meant === undefined ? "" : `; did you mean "${meant}"?`;
      return refuse(`${quote(text)} is not accepted: give ${orList(words)}${guess}`);
    },
    format: (word) => word,
  };
}

/** Words in quotes with commas and an "or" between them. */
function orList(words: readonly string[]): string {
  const quoted = words.map((word) => `"${word}"`);
  if (quoted.length < 2) return quoted.join("");
  return `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
}

/** A duration in ms, `30s`. */
export const durationSyntax: Syntax<number> = { parse: parseDuration, format: formatDuration };

/** How long something may take or be silent, in ms; `0s` is for ever (`neverMs`). */
export const timeoutSyntax: Syntax<number> = {
  parse: (text) => {
    const duration = parseDuration(text);
    return duration.ok && duration.value === 0 ? ok(neverMs) : duration;
  },
  format: (ms) => formatDuration(ms === neverMs ? 0 : ms),
};

/** A duration in ms that is not 0. */
export const positiveDurationSyntax: Syntax<number> = {
  parse: (text) => {
    const duration = parseDuration(text);
    return duration.ok && duration.value === 0
      ? refuse(`${quote(text)}: give a time, such as "60s"`)
      : duration;
  },
  format: formatDuration,
};

/** An upstream: `HOST:PORT`, `HOST` for the port asked for, or the word `original`. */
export const upstreamSyntax: Syntax<UpstreamTarget> = {
  parse: (text) => {
    if (text === "original") return ok(text);
    const target = parseUpstream(text);
    const isMeant = !target.ok && similarTo(text, ["original"]).length > 0;
    return isMeant ? refuse(`${target.error}; did you mean "original"?`) : target;
  },
  format: (value) => {
    if (value === "original") return value;
    return (value.scheme === undefined ? "" : `${value.scheme}://`) + formatTarget(value);
  },
};

/** No link-local address without its interface: every connect would fail with EINVAL. */
function parseUpstream(text: string): Parsed<Target> {
  const portless = parsePortless(text);
  const target = portless === undefined ? parseTarget(text) : ok(portless);
  if (!target.ok || typeof target.value.host === "string") return target;
  const { family, bytes, zone } = target.value.host;
  const isLinkLocal = family === 6 && bytes[0] === 0xfe && ((bytes[1] as number) & 0xc0) === 0x80;
  if (!isLinkLocal || zone !== undefined) return target;
  const zoned = formatTarget({ ...target.value, host: { family, bytes, zone: "eth0" } });
  return refuse(`${quote(text)} needs its interface: give "${zoned}"`);
}

/** Whose address an upstream sees: `client`, `client:port`, `self` or an address. */
export const sourceSyntax: Syntax<SourceChoice> = {
  parse: (text) => {
    if (text === "self") return ok({ kind: "self" });
    if (text === "client") return ok({ kind: "client", keepPort: false });
    if (text === "client:port") return ok({ kind: "client", keepPort: true });
    const address = parseAddress(text);
    if (address.ok) return ok({ kind: "address", address: address.value.bytes });
    return refuse(
      `${quote(text)} is no source: give client, client:port, self or an address, "192.0.2.7"`,
    );
  },
  format: (source) => {
    if (source.kind === "address") return formatBytes(source.address);
    return source.kind === "client" && source.keepPort ? "client:port" : source.kind;
  },
};

/** A mark for a socket (SO_MARK): a number without a mask. */
export const socketMarkSyntax: Syntax<Mark> = {
  parse: (text) => {
    const mark = parseMark(text);
    if (mark.ok && mark.value.mask === fullMask) return ok(mark.value.value);
    return refuse(`${quote(text)} is not a socket's mark: give a number up to 0xffffffff, "0x1"`);
  },
  format: (value) => formatMark({ value, mask: fullMask }),
};

/** A network, or `@FILE` for those in a file; `@-` is standard input. */
export const networkSyntax: Syntax<NetworkSource> = {
  parse: (text) => (/^@./.test(text) ? ok({ file: text.slice(1) }) : parseCidr(text)),
  format: (source) => ("file" in source ? `@${source.file}` : formatCidr(source)),
};

/** How many Workers: a number, or `auto` for one on each core that the process may run on. */
export const workersSyntax: Syntax<number | "auto"> = {
  parse: (text) => {
    if (text === "auto") return ok(text);
    const result = numberSyntax(1, workersMax).parse(text);
    return result.ok ? result : refuse(`${result.error}, or "auto"`);
  },
  format: String,
};

/** The largest user or group id; the one above it is nobody's, (uid_t)-1. */
const idMax = 0xfffffffe;

/** A user or group: its number, or a name that is yet to be looked up. */
export const identitySyntax: Syntax<number | string> = {
  parse: (text) => {
    if (!/^[0-9]+$/.test(text)) return ok(text);
    const id = Number(text);
    if (/^(0|[1-9][0-9]{0,9})$/.test(text) && id <= idMax) return ok(id);
    return refuse(`${quote(text)} is not accepted: give a number from 0 to ${idMax}, or a name`);
  },
  format: String,
};
