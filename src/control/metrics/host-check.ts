/**
 * Which requests a listener of TCP answers, so that a page in somebody's browser reads nothing from
 * it: neither by a name that leads here (DNS rebinding), nor from another origin. Pure.
 */

/** The rejection of a request: the status of the answer, and its text. */
export interface RequestFault {
  readonly status: 403 | 405 | 421;
  readonly text: string;
}

/** The parts of a request that are checked. */
export interface CheckedRequest {
  readonly method: string;
  readonly host: string | null;
  readonly origin: string | null;
}

/**
 * Looks at a request to a listener that answers to `hosts` and to literal addresses with its port.
 * Undefined: nothing is wrong.
 */
export function requestFault(
  { method, host, origin }: CheckedRequest,
  hosts: readonly string[],
  port: number,
): RequestFault | undefined {
  if (method !== "GET" && method !== "HEAD") {
    return { status: 405, text: "only GET and HEAD are answered here" };
  }
  // A program may send none (HTTP/1.0); a browser always does.
  if (host === null || !isOurs(host, hosts, port)) {
    const text =
      "this host name is not one of ours: give the address, or add it to [metrics] hosts";
    return { status: 421, text };
  }
  if (origin !== null && origin.toLowerCase() !== `http://${host.toLowerCase()}`) {
    return { status: 403, text: "pages of other origins are not answered" };
  }
  return undefined;
}

function isOurs(host: string, hosts: readonly string[], port: number): boolean {
  const wanted = host.toLowerCase();
  if (hosts.some((each) => each.toLowerCase() === wanted)) return true;
  const literal = literalOf(wanted);
  return literal !== undefined && literal.port === port;
}

/** An IPv4 address, or one of IPv6 in brackets, with its port; undefined: a name, or nonsense. */
function literalOf(host: string): { port: number } | undefined {
  const found = /^(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+(?:%25[\w.-]+)?\])(?::(\d{1,5}))?$/.exec(
    host,
  );
  if (found === null) return undefined;
  return { port: Number(found[2] ?? 80) };
}
