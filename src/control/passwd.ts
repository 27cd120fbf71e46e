/** Users in the texts of /etc/passwd and /etc/group (passwd(5), group(5)). Pure. */

/** The user and groups that a process becomes. */
export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** Its supplementary groups, the first one included. */
  readonly groups: readonly number[];
}

/** The user of a name or a number; undefined if `passwd` has none. */
export function userIn(passwd: string, group: string, nameOrId: string): User | undefined {
  const rows = fieldsOf(passwd).filter(([, , uid, gid]) => isId(uid) && isId(gid));
  const row =
    rows.find(([name]) => name === nameOrId) ?? rows.find(([, , uid]) => uid === nameOrId);
  const [name = "", , uid, gid] = row ?? [];
  if (row === undefined) return undefined;
  const others = fieldsOf(group)
    .filter(([, , id, members = ""]) => isId(id) && members.split(",").includes(name))
    .map(([, , id]) => Number(id));
  const groups = [...new Set([Number(gid), ...others])];
  return { name, uid: Number(uid), gid: Number(gid), groups };
}

/** The number of the group of a name; undefined if `group` has none. */
export function groupIdIn(group: string, wanted: string): number | undefined {
  const row = fieldsOf(group).find(([name, , gid]) => name === wanted && isId(gid));
  return row === undefined ? undefined : Number(row[2]);
}

function isId(text: string | undefined): boolean {
  return text !== undefined && /^[0-9]{1,10}$/.test(text) && Number(text) < 0xffff_ffff;
}

function fieldsOf(text: string): string[][] {
  return text.split("\n").map((line) => line.split(":"));
}
