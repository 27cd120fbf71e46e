import type { Port } from "../../ffi/types.ts";
import { type Address, formatAddress, parseAddress } from "./address.ts";
import { parsePort } from "./port.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** An address and a port: what a socket is bound or connected to. */
export interface Endpoint {
  /** Undefined when none was given (`:8080`, `*:8080`): every address of this host. */
  readonly address: Address | undefined;
  readonly port: Port;
}

export interface EndpointOptions {
  /** Accept port 0, the kernel's choice of a free port. */
  readonly portZero?: boolean;
  /** Refuse an endpoint without an address: it is one to send to. */
  readonly addressRequired?: boolean;
}

/**
 * Parses `ADDRESS:PORT`: `8.8.8.8:8080`, `[2001:db8::9]:8080`, `[fe80::1%eth0]:8080`, and `:8080`
 * or `*:8080` for every address. IPv6 needs its brackets: `2001:db8::9:80` is an address as it
 * stands. Names are not looked up here.
 */
export function parseEndpoint(text: string, options: EndpointOptions = {}): Parsed<Endpoint> {
  const parts = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^:[\]]*)$/.exec(text);
  if (parts === null) return refused(text, options);
  const [, bracketed, plain, portText = ""] = parts;
  const port = parsePort(portText, { zero: options.portZero === true });
  if (!port.ok) return refuse(`${quote(text)}: ${port.error}`);
  if (bracketed === undefined && (plain === "" || plain === "*")) {
    if (options.addressRequired === true) return refused(text, options);
    return ok({ address: undefined, port: port.value });
  }
  const address = parseAddress(bracketed ?? plain ?? "", { zone: true });
  const family = bracketed === undefined ? 4 : 6;
  if (!address.ok || address.value.family !== family) return refused(text, options);
  return ok({ address: address.value, port: port.value });
}

function refused(text: string, options: EndpointOptions) {
  const bare = parseAddress(text, { zone: true });
  if (bare.ok) {
    const address = formatAddress(bare.value);
    const example = bare.value.family === 4 ? `${address}:8080` : `[${address}]:8080`;
    return refuse(`${quote(text)} has no port: give ADDRESS:PORT, "${example}"`);
  }
  const port = parsePort(text, { zero: options.portZero === true });
  if (port.ok && options.addressRequired !== true) {
    return refuse(`${quote(text)} is a port alone: give ":${text}" for every IPv4 address`);
  }
  const any = options.addressRequired === true ? "" : ` or ":8080" for every address`;
  return refuse(
    `${quote(text)} is not ADDRESS:PORT: give "8.8.8.8:8080", "[2001:db8::9]:8080"${any}`,
  );
}

/** The text that `parseEndpoint` reads back; `*` stands for every address. */
export function formatEndpoint(endpoint: Endpoint): string {
  const { address, port } = endpoint;
  if (address === undefined) return `*:${port}`;
  const text = formatAddress(address);
  return address.family === 4 ? `${text}:${port}` : `[${text}]:${port}`;
}

/** An endpoint as the logs show it: `tcp://1.2.3.4:80`, `udp://[::1]:53`. */
export function formatUrl(scheme: "tcp" | "udp", endpoint: Endpoint): string {
  return `${scheme}://${formatEndpoint(endpoint)}`;
}
