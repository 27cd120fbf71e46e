/** Users and groups as options take them: by number, or by name in /etc/passwd and /etc/group. */

import { findGroupId, findUser } from "../control/users.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";
import { makeValue, type Value } from "./values.ts";

/** The largest user or group id; the one above it is nobody's, (uid_t)-1. */
const idMax = 0xfffffffe;

/** A user's number, also by name. */
export function userIdValue(): Value<number> {
  return makeValue({
    metavar: "USER",
    placeholder: 0,
    parse: (input) => parseId(input, "user", "/etc/passwd", userId),
    format: String,
  });
}

/** A group's number, also by name. */
export function groupIdValue(): Value<number> {
  return makeValue({
    metavar: "GROUP",
    placeholder: 0,
    parse: (input) => parseId(input, "group", "/etc/group", findGroupId),
    format: String,
  });
}

function userId(name: string): number | undefined {
  try {
    return findUser(name)?.uid;
  } catch {
    return undefined;
  }
}

function parseId(
  input: string,
  kind: string,
  file: string,
  find: (name: string) => number | undefined,
): Parsed<number> {
  // A number is taken as it stands: nobody has to have it.
  if (/^[0-9]+$/.test(input)) {
    const id = Number(input);
    const isPlain = /^(0|[1-9][0-9]{0,9})$/.test(input) && id <= idMax;
    if (isPlain) return ok(id);
    return refuse(`${quote(input)} is not accepted: give a number from 0 to ${idMax}, or a name`);
  }
  const id = find(input);
  if (id !== undefined) return ok(id);
  return refuse(`${quote(input)} is no ${kind} of ${file}: give one of its names or a number`);
}
