/** Users and groups by their names in /etc/passwd and /etc/group: no NSS, which would load code. */

import { readFileSync } from "node:fs";
import { groupIdIn, type User, userIn } from "./passwd.ts";

/** The user of a name or a number; undefined if /etc/passwd has none. @throws as readFileSync */
export function findUser(nameOrId: string): User | undefined {
  return userIn(readFileSync("/etc/passwd", "utf8"), readGroups(), nameOrId);
}

/** The number of the group of a name; undefined if /etc/group has none or cannot be read. */
export function findGroupId(name: string): number | undefined {
  return groupIdIn(readGroups(), name);
}

function readGroups(): string {
  try {
    return readFileSync("/etc/group", "utf8");
  } catch {
    return "";
  }
}
