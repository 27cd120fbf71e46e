import type { Port } from "../../ffi/types.ts";
import { type Address, formatAddress, parseAddress } from "./address.ts";
import { type Endpoint, type EndpointOptions, formatEndpoint, parseEndpoint } from "./endpoint.ts";
import { parsePort } from "./port.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** A transport protocol, and the scheme that names it in front of an endpoint. */
export type Scheme = "tcp" | "udp";

/** An endpoint as tproxy prints it: with or without `tcp://` or `udp://` in front. */
export interface SchemedEndpoint {
  readonly scheme: Scheme | undefined;
  readonly endpoint: Endpoint;
}

/** Somewhere to send to: an address, or a name that is yet to be looked up. */
export interface Target {
  readonly scheme: Scheme | undefined;
  readonly host: Address | string;
  /** 0, of an upstream alone: the port of the original destination. */
  readonly port: Port;
}

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i;

/** Whether it is a host name of RFC 1123, whose last label is not all digits. */
function isName(text: string): boolean {
  const labels = text.replace(/\.$/, "").split(".");
  const isNumber = /^[0-9]+$/.test(labels.at(-1) ?? "");
  return text.length <= 253 && !isNumber && labels.every((label) => LABEL.test(label));
}

/** Parses `ADDRESS:PORT` with an optional `tcp://` or `udp://` in front of it. */
export function parseSchemedEndpoint(
  text: string,
  options: EndpointOptions = {},
): Parsed<SchemedEndpoint> {
  const { scheme, rest } = splitScheme(text);
  const endpoint = parseEndpoint(rest, options);
  return endpoint.ok ? ok({ scheme, endpoint: endpoint.value }) : endpoint;
}

/** Parses `HOST:PORT`, where HOST is an address or a name, with an optional scheme in front. */
export function parseTarget(text: string): Parsed<Target> {
  const { scheme, rest } = splitScheme(text);
  const endpoint = parseEndpoint(rest, { addressRequired: true });
  if (endpoint.ok && endpoint.value.address !== undefined) {
    return ok({ scheme, host: endpoint.value.address, port: endpoint.value.port });
  }
  const colon = rest.lastIndexOf(":");
  const host = rest.slice(0, colon);
  if (colon > 0 && isName(host)) {
    const port = parsePort(rest.slice(colon + 1));
    return port.ok
      ? ok({ scheme, host, port: port.value })
      : refuse(`${quote(text)}: ${port.error}`);
  }
  return refuse(
    `${quote(text)} is not HOST:PORT: give "192.0.2.1:80", "[2001:db8::9]:80" or "example.com:80"`,
  );
}

/**
 * Parses `HOST` without a port, which stands for the port of the original destination. A name has
 * at least one dot: any other word is rather a mistake.
 */
export function parsePortless(text: string): Target | undefined {
  const { scheme, rest } = splitScheme(text);
  const bracketed = /^\[(.*)\]$/.exec(rest);
  const address = parseAddress(bracketed?.[1] ?? rest, { zone: true });
  const port = 0 as Port;
  if (address.ok && (bracketed === null || address.value.family === 6)) {
    return { scheme, host: address.value, port };
  }
  return isName(rest) && rest.includes(".") ? { scheme, host: rest, port } : undefined;
}

/** The text of a target without its scheme. */
export function formatTarget(target: Target): string {
  const { host, port } = target;
  if (port === 0) return typeof host === "string" ? host : formatAddress(host);
  if (typeof host === "string") return `${host}:${port}`;
  return host.family === 4 ? `${formatAddress(host)}:${port}` : `[${formatAddress(host)}]:${port}`;
}

/** The text of an endpoint with its scheme, if it has one. */
export function formatSchemedEndpoint({ scheme, endpoint }: SchemedEndpoint): string {
  const text = formatEndpoint(endpoint);
  return scheme === undefined ? text : `${scheme}://${text}`;
}

function splitScheme(text: string): { scheme: Scheme | undefined; rest: string } {
  if (text.startsWith("tcp://")) return { scheme: "tcp", rest: text.slice(6) };
  if (text.startsWith("udp://")) return { scheme: "udp", rest: text.slice(6) };
  return { scheme: undefined, rest: text };
}
