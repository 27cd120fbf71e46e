/** Guesses what a user with wrong arguments meant. Loaded only for an error. Pure. */

import { parseCidr } from "../net/cidr.ts";
import { parsePort } from "../net/port.ts";
import { similarTo } from "../net/similar.ts";

const portHint = 'the port belongs to the address: give ":80"';
const addressHint = 'the address is an argument: give [ADDR]:PORT, such as ":80"';

/** Options of other programs that are an argument of our commands that listen. */
const foreignOptions: ReadonlyMap<string, string> = new Map([
  ["--port", portHint],
  ["-p", portHint],
  ["--listen", addressHint],
  ["--bind", addressHint],
  ["--address", addressHint],
  ["--host", addressHint],
]);

/** The given arguments, and what would be accepted. */
export interface GivenArguments {
  readonly args: readonly string[];
  /** The commands, or the options of the given command. */
  readonly names: readonly string[];
  /** Whether the command takes the address to listen on as an argument. */
  readonly listens: boolean;
}

/**
 * The hint after an error of the argument parser, `. Did you mean "--json"?`; undefined if there is
 * none. `culprit` is the unexpected argument, if it is known.
 */
export function hintFor(culprit: string | undefined, given: GivenArguments): string | undefined {
  const { args, names, listens } = given;
  if (culprit === undefined) return undefined;
  const [name = ""] = culprit.split("=", 1);
  const foreign = listens ? [...foreignOptions.keys()] : [];
  // The user wrote "apply" for "--apply".
  const spellings = name.startsWith("-") ? [name] : [name, `--${name}`];
  const similar = spellings.flatMap((each) => similarTo(each, [...names, ...foreign]));
  const hint = similar.length === 1 ? foreignOptions.get(similar[0] as string) : undefined;
  if (hint !== undefined && !names.includes(similar[0] as string)) {
    const value = culprit.slice(name.length + 1) || (args[args.indexOf(culprit) + 1] ?? "");
    return `: ${parsePort(value).ok ? hint.replace(":80", `:${value}`) : hint}`;
  }
  const known = [...new Set(similar)].filter((each) => names.includes(each));
  if (known.length === 0) return undefined;
  return `. Did you mean ${known.map((each) => `"${each}"`).join(" or ")}?`;
}

/** The option takes its value after "=" only, but the value was a separate word. */
export function detachedValue(args: readonly string[]): string | undefined {
  const at = args.findIndex((arg, i) => {
    const [first = ""] = (args[i + 1] ?? "").split(",", 1);
    return arg === "--accept-proxy" && (parseCidr(first).ok || first.startsWith("@"));
  });
  if (at < 0) return undefined;
  const value = args[at + 1];
  return `--accept-proxy takes networks behind "=": give "--accept-proxy=${value}"`;
}
