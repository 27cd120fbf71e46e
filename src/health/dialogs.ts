/** The request of each type of check, and the answers that pass it. Pure. */

import type { ProbeSettings } from "../config/pool.ts";
import { encodeClientHello, readServerAnswer } from "../proto/tls-hello.ts";
import { version } from "../version.ts";

/** One check as a talk: what we say, and when the answer is complete. */
export interface Dialog {
  /** Empty: it is enough to be connected. */
  readonly request: Uint8Array;
  /** Why the answer so far is wrong; empty: it is right; undefined: more has to come. */
  readonly read: (answer: Uint8Array) => string | undefined;
  /** The server ends the connection itself: one that is closed before would be an error to it. */
  readonly isEndedByServer?: boolean;
}

/** The talk of a check with an upstream that is called `host`. */
export function dialogOf(probe: ProbeSettings, host: string, random: () => Uint8Array): Dialog {
  switch (probe.type) {
    case "tcp":
      return { request: new Uint8Array(0), read: () => "" };
    case "tls":
      return { request: encodeClientHello(nameOf(probe.host || host), random()), read: readTls };
    case "http":
      return {
        request: new TextEncoder().encode(
          `GET ${probe.path} HTTP/1.1\r\nHost: ${probe.host || host}\r\n` +
            `User-Agent: tproxy/${version}\r\nAccept: */*\r\nConnection: close\r\n\r\n`,
        ),
        read: (answer) => readHttp(answer, probe.status),
        isEndedByServer: true,
      };
    case "udp":
      return {
        request: probe.send,
        read: (answer) => {
          const { expect } = probe;
          const isRight = expect === undefined || Buffer.from(answer).includes(expect);
          return isRight ? "" : "another answer than expected";
        },
      };
  }
}

/** SNI has names only (RFC 6066, 3). */
function nameOf(host: string): string {
  return /^[0-9.]+$|:/.test(host) ? "" : host;
}

function readTls(answer: Uint8Array): string | undefined {
  const read = readServerAnswer(answer);
  switch (read.kind) {
    case "more":
      return undefined;
    case "hello":
      return "";
    case "alert":
      return `TLS alert ${read.code}`;
    case "other":
      return "no TLS";
  }
}

function readHttp(
  answer: Uint8Array,
  wanted: readonly { readonly from: number; readonly to: number }[],
): string | undefined {
  const text = new TextDecoder("latin1").decode(answer.subarray(0, 13));
  const [, status] = /^HTTP\/1\.[01] ([1-5][0-9]{2})[ \r\n]/.exec(text) ?? [];
  if (status === undefined) {
    return text.length < 13 && "HTTP/1.".startsWith(text.slice(0, 7)) ? undefined : "no HTTP";
  }
  const code = Number(status);
  return wanted.some(({ from, to }) => code >= from && code <= to) ? "" : `status ${code}`;
}
