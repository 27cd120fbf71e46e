/** Kinds of values that several tables of settings share. Pure. */

import { upstreamsMax } from "../engine/limits.ts";
import { ok, quote, refuse } from "../net/result.ts";
import { integer, list, text, word } from "./kinds.ts";
import { durationSyntax, type Syntax, timeoutSyntax, upstreamSyntax } from "./syntax.ts";

/** The most entries of a list, and of tables of one kind. */
export const listMax = 1_000;
export const tablesMax = 10_000;

export const durationPattern = /^[0-9]{1,10}(ms|s|m|h)$/;
export const duration = text(durationSyntax, {
  examples: ["30s", "5m"],
  pattern: durationPattern,
});
export const timeout = text(timeoutSyntax, { examples: ["30s", "0s"], pattern: durationPattern });

const namePattern = /^[a-z0-9][a-z0-9_.-]{0,62}$/;
/** What people call a service, a pool or an upstream. */
export const name = text(
  {
    parse: (given) =>
      namePattern.test(given)
        ? ok(given)
        : refuse(
            `${quote(given)} is not a name: give at most 63 small letters, digits, ".", "_" or ` +
              `"-", the first of them a letter or digit`,
          ),
    format: (given) => given,
  },
  { examples: ["web"], pattern: namePattern },
);

/** Text of any kind, on one line. */
export const plain: Syntax<string> = {
  parse: (given) => {
    if (given.length > 0 && given.length <= 255 && !/\p{C}/u.test(given)) return ok(given);
    return refuse(`${quote(given)} is not accepted: give 1 to 255 characters on one line`);
  },
  format: (given) => given,
};

export const count = integer(1, 1_000_000);
export const balance = word("round-robin", "least-connections", "source-hash");
export const upstream = text(upstreamSyntax, {
  examples: ["192.0.2.10:8080", "web.example:8080", "192.0.2.10", "original"],
});
export const upstreams = list(upstream, upstreamsMax);
