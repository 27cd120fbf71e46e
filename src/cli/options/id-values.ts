/** Users and groups as values: a number, or a name of /etc/passwd or /etc/group. */

import { identitySyntax } from "../../config/syntax.ts";
import { findGroupId, findUser } from "../../control/users.ts";
import { ok, type Parsed, quote, refuse } from "../../net/result.ts";
import { makeValue, type Value } from "./values.ts";

/** A user's number or name. */
export function userIdValue(): Value<number> {
  return makeValue({
    metavar: "USER",
    placeholder: 0,
    parse: (input) => parseId(input, "user", "/etc/passwd", userId),
    format: String,
  });
}

/** A group's number or name. */
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
  const identity = identitySyntax.parse(input);
  // A number is accepted even if no user or group has it.
  if (!identity.ok || typeof identity.value === "number") return identity as Parsed<number>;
  const id = find(identity.value);
  if (id !== undefined) return ok(id);
  return refuse(`${quote(input)} is no ${kind} of ${file}: give one of its names or a number`);
}
