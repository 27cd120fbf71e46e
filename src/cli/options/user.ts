/** --user: the user that a serving command changes to. */

import { optional } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import type { User } from "../../control/passwd.ts";
import { checkPrivileges } from "../../control/privileges.ts";
import { findUser } from "../../control/users.ts";
import { userNeeds } from "../../diagnose/checks/privileges.ts";
import { CommandError, UsageError } from "../../errors.ts";
import { quote } from "../../net/result.ts";
import { prose } from "../prose.ts";

/** For the fields of a command. */
export const userOption = optional(
  option("--user", string({ metavar: "NAME" }), {
    description: prose`Become this user of /etc/passwd once the sockets are open and the rules in
      place, and keep only the capabilities that are still needed.`,
  }),
);

/**
 * The user of `--user`. With `givesSockets`, open sockets are given to that user.
 * @throws UsageError for an unknown name, CommandError if we may not become that user
 */
export function wantedUser(name: string | undefined, givesSockets: boolean): User | undefined {
  const user = name === undefined ? undefined : known(name);
  if (user !== undefined && user.uid !== process.getuid?.()) {
    checkPrivileges(userNeeds(user.name, givesSockets));
  }
  return user;
}

function known(name: string): User {
  let user: User | undefined;
  try {
    user = findUser(name);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CommandError(`--user ${quote(name)}: /etc/passwd cannot be read: ${reason}`);
  }
  if (user !== undefined) return user;
  throw new UsageError(`--user ${quote(name)}: /etc/passwd has no such user: give one that it has`);
}
