/**
 * Values of options and arguments: wraps the parsers of `src/net/` as value parsers of @optique.
 * Only this file and the command files know the argument library.
 */

import { readdirSync } from "node:fs";
import { type Message, message, text } from "@optique/core/message";
import type { NonEmptyString } from "@optique/core/nonempty";
import type { Suggestion } from "@optique/core/parser";
import type { ValueParser } from "@optique/core/valueparser";
import type { Mark, Port } from "../../../ffi/types.ts";
import { formatListen, type OpenListen, parseOpenListen } from "../../config/listen.ts";
import { socketPathSyntax } from "../../config/settings-admin.ts";
import {
  durationSyntax,
  numberSyntax,
  positiveDurationSyntax,
  type SourceChoice,
  socketMarkSyntax,
  sourceSyntax,
  timeoutSyntax,
  type UpstreamTarget,
  upstreamSyntax,
  wordSyntax,
  workersSyntax,
} from "../../config/syntax.ts";
import { formatDuration } from "../../net/duration.ts";
import type { EndpointOptions } from "../../net/endpoint.ts";
import { parseInterfaceName, parseInterfacePattern } from "../../net/interface.ts";
import { formatMark, type MaskedMark, parseMark } from "../../net/mark.ts";
import { formatPortRange, type PortRange, parsePort, parsePortRange } from "../../net/port.ts";
import { ok, type Parsed } from "../../net/result.ts";
import {
  formatSchemedEndpoint,
  formatTarget,
  parseSchemedEndpoint,
  parseTarget,
  type SchemedEndpoint,
  type Target,
} from "../../net/target.ts";

/** The type of every value parser here. */
export type Value<T> = ValueParser<"sync", T>;

/** The shell completions for a word that begins with `prefix`. */
type Suggest = (prefix: string) => Iterable<Suggestion>;

interface ValueOf<T> {
  readonly metavar: NonEmptyString;
  /** Any value of the type: @optique requires one. */
  readonly placeholder: T;
  readonly parse: (text: string) => Parsed<T>;
  readonly format: (value: T) => string;
  readonly suggest?: Suggest;
}

/** A value parser out of a parser of `src/net/`, which returns errors as text. */
export function makeValue<T>({ parse, ...rest }: ValueOf<T>): Value<T> {
  return {
    mode: "sync",
    ...rest,
    parse: (input) => {
      const result = parse(input);
      return result.ok
        ? { success: true, value: result.value }
        : { success: false, error: plain(result.error) };
    },
  };
}

/** An error text as a message of @optique, which would quote it otherwise. */
function plain(error: string): Message {
  return message`${text(error)}`;
}

/** `ADDRESS:PORT` with an optional `tcp://` or `udp://` in front of it. */
export function schemedEndpointValue(options: EndpointOptions = {}): Value<SchemedEndpoint> {
  return makeValue({
    metavar: "[ADDR]:PORT",
    placeholder: { scheme: undefined, endpoint: { address: undefined, port: 1 as Port } },
    parse: (input) => parseSchemedEndpoint(input, options),
    format: formatSchemedEndpoint,
  });
}

/** Where `forward` listens: the same, with a port or a range of ports. */
export function listenValue(): Value<OpenListen> {
  return makeValue({
    metavar: "[ADDR]:PORT[-PORT]",
    placeholder: {
      protocol: undefined,
      address: undefined,
      ports: { from: 1, to: 1 } as PortRange,
    },
    parse: parseOpenListen,
    format: formatListen,
  });
}

/** `HOST:PORT` to send to, with an optional scheme; HOST is an address or a name. */
export function targetValue(): Value<Target> {
  return makeValue({
    metavar: "HOST:PORT",
    placeholder: { scheme: undefined, host: "localhost", port: 1 as Port },
    parse: parseTarget,
    format: formatTarget,
  });
}

/** An upstream: `HOST:PORT`, `HOST`, or the word `original`. */
export function upstreamValue(): Value<UpstreamTarget> {
  return makeValue<UpstreamTarget>({
    metavar: "HOST[:PORT]|original",
    placeholder: "original",
    ...upstreamSyntax,
    suggest: suggestWords(["original"]),
  });
}

/** Whose address an upstream sees: `client`, `client:port`, `self` or an address. */
export function sourceValue(): Value<SourceChoice> {
  return makeValue<SourceChoice>({
    metavar: "client|client:port|self|ADDR",
    placeholder: { kind: "self" },
    ...sourceSyntax,
    suggest: suggestWords(["client", "client:port", "self"]),
  });
}

/** A port from 1 to 65535. */
export function portValue(metavar: NonEmptyString = "PORT"): Value<Port> {
  return makeValue({ metavar, placeholder: 1 as Port, parse: parsePort, format: String });
}

/** A port or a range of ports, `8000-9000`. */
export function portRangeValue(): Value<PortRange> {
  return makeValue({
    metavar: "PORT|RANGE",
    placeholder: { from: 1 as Port, to: 1 as Port },
    parse: parsePortRange,
    format: formatPortRange,
  });
}

/** A mark with or without a mask, `0x1/0x1`. */
export function maskedMarkValue(): Value<MaskedMark> {
  return makeValue({
    metavar: "VALUE/MASK",
    placeholder: { value: 1 as Mark, mask: 1 },
    parse: parseMark,
    format: formatMark,
  });
}

/** A mark for a socket (SO_MARK): a number without a mask. */
export function markValue(): Value<Mark> {
  return makeValue({ metavar: "MARK", placeholder: 1 as Mark, ...socketMarkSyntax });
}

/** A duration, `30s`, in ms. */
export function durationValue(): Value<number> {
  return makeValue({ metavar: "DURATION", placeholder: 0, ...durationSyntax });
}

/** How long something may take or be silent, in ms; `0s` means without limit. */
export function timeoutValue(): Value<number> {
  return makeValue({ metavar: "DURATION", placeholder: 0, ...timeoutSyntax });
}

/** How many Workers: a number, or `auto` for one on each core that this process may run on. */
export function workersValue(): Value<number | "auto"> {
  return makeValue<number | "auto">({
    metavar: "N|auto",
    placeholder: 1,
    ...workersSyntax,
    suggest: suggestWords(["auto"]),
  });
}

/** How long a UDP session may be silent, `60s`; of one port's once it is answered, `53=5s`. */
export function udpTimeoutValue(): Value<UdpTimeout> {
  return makeValue({
    metavar: "[PORT=]DURATION",
    placeholder: { port: undefined, ms: 0 } as UdpTimeout,
    parse: (input) => {
      const at = input.indexOf("=");
      const duration = positiveDurationSyntax.parse(input.slice(at + 1));
      if (!duration.ok) return duration;
      if (at < 0) return ok({ port: undefined, ms: duration.value });
      const port = parsePort(input.slice(0, at));
      return port.ok ? ok({ port: port.value, ms: duration.value }) : port;
    },
    format: ({ port, ms }) => `${port === undefined ? "" : `${port}=`}${formatDuration(ms)}`,
  });
}

/** The value of `--udp-timeout`. */
export interface UdpTimeout {
  /** Undefined: of every port. */
  readonly port: Port | undefined;
  readonly ms: number;
}

/** The name of a network interface. */
export function interfaceValue(): Value<string> {
  return makeValue({
    metavar: "IFACE",
    placeholder: "lo",
    parse: parseInterfaceName,
    format: (name) => name,
    suggest: suggestInterfaces,
  });
}

/** The name or alternative name of an interface, or a pattern, `eth*`. */
export function interfacePatternValue(): Value<string> {
  return makeValue({
    metavar: "IFACE",
    placeholder: "lo",
    parse: parseInterfacePattern,
    format: (name) => name,
    suggest: suggestInterfaces,
  });
}

/** A decimal number from `min` to `max`, both included. */
export function numberValue(metavar: NonEmptyString, min: number, max: number): Value<number> {
  return makeValue({ metavar, placeholder: min, ...numberSyntax(min, max) });
}

/** One of a few words, which completion offers. */
export function wordValue<const Word extends string>(
  metavar: NonEmptyString,
  words: readonly [Word, ...Word[]],
): Value<Word> {
  const value = { metavar, placeholder: words[0], ...wordSyntax(words) };
  return { ...makeValue<Word>({ ...value, suggest: suggestWords(words) }), choices: words };
}

/** Offers words to the completion of a shell. */
function suggestWords(words: Iterable<string>): Suggest {
  return function* suggest(prefix) {
    for (const word of words) {
      if (word.startsWith(prefix)) yield { kind: "literal", text: word };
    }
  };
}

/** Offers the interfaces of this host to the completion of a shell. */
function* suggestInterfaces(prefix: string): Iterable<Suggestion> {
  yield* suggestWords(readInterfaceNames())(prefix);
}

function readInterfaceNames(): string[] {
  try {
    const entries = readdirSync("/sys/class/net", { withFileTypes: true });
    return entries.filter((each) => each.isSymbolicLink()).map(({ name }) => name);
  } catch {
    return [];
  }
}

/** Offers files to shell completion, after `prefix` if the value needs it. */
export function suggestFiles(lead = ""): Suggest {
  return function* suggest(prefix) {
    if (!prefix.startsWith(lead)) return;
    yield { kind: "file", type: "file", pattern: prefix, ...(lead === "" ? {} : { prefix: lead }) };
  };
}

/** The path of a file. */
export function fileValue(): Value<string> {
  return makeValue({
    metavar: "FILE",
    placeholder: "",
    parse: ok<string>,
    format: (path) => path,
    suggest: suggestFiles(),
  });
}

/** The path of a unix socket. */
export function socketValue(): Value<string> {
  return makeValue({
    metavar: "PATH",
    placeholder: "/run/tproxy/admin.sock",
    ...socketPathSyntax,
    suggest: suggestFiles(),
  });
}

/** A list of values with commas between them, `tcp,udp`; at least one, none of them empty. */
export function listValue<T>(item: Value<T>): Value<readonly T[]> {
  return {
    mode: "sync",
    metavar: item.metavar,
    placeholder: [item.placeholder],
    parse: (input) => {
      const values: T[] = [];
      for (const part of input.split(",")) {
        const result = item.parse(part);
        if (!result.success) return result;
        values.push(result.value);
      }
      return { success: true, value: values };
    },
    format: (values) => values.map((value) => item.format(value)).join(","),
    *suggest(prefix) {
      const start = prefix.lastIndexOf(",") + 1;
      for (const each of item.suggest?.(prefix.slice(start)) ?? []) {
        if (each.kind === "literal") yield { ...each, text: prefix.slice(0, start) + each.text };
        else if (start === 0) yield each;
      }
    },
  };
}
