import type { Port } from "../../ffi/types.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** Ports `from` to `to`, both included, in host byte order. */
export interface PortRange {
  readonly from: Port;
  readonly to: Port;
}

const decimal = /^(0|[1-9][0-9]{0,4})$/;

/** Parses a port from 1 to 65535; with `zero: true` also 0, the kernel's choice of a free port. */
export function parsePort(text: string, options: { zero?: boolean } = {}): Parsed<Port> {
  const port = Number(text);
  const least = options.zero === true ? 0 : 1;
  if (!decimal.test(text) || port < least || port > 65535) {
    return refuse(`${quote(text)} is not a port: give a number from ${least} to 65535`);
  }
  return ok(port as Port);
}

/** Parses a port, `443`, or a range of ports, `8000-9000`. */
export function parsePortRange(text: string): Parsed<PortRange> {
  const dash = text.indexOf("-");
  const from = parsePort(dash < 0 ? text : text.slice(0, dash));
  const to = dash < 0 ? from : parsePort(text.slice(dash + 1));
  if (!from.ok || !to.ok) {
    return refuse(
      `${quote(text)} is not a port or a range of ports: give a number from 1 to 65535, "443", ` +
        `or two, "8000-9000"`,
    );
  }
  if (from.value > to.value) {
    return refuse(
      `${quote(text)} is a range that ends before it starts: give "${to.value}-${from.value}"`,
    );
  }
  return ok({ from: from.value, to: to.value });
}

/** The text of a port range: `443`, `8000-9000`. */
export function formatPortRange(range: PortRange): string {
  return range.from === range.to ? `${range.from}` : `${range.from}-${range.to}`;
}
