import { expect, test } from "bun:test";
import { groupIdIn, userIn } from "../../../src/control/passwd.ts";

const passwd = `root:x:0:0:root:/:/bin/bash
broken line
daemon:x:1:1::/:/bin/false
web:x:33:34:web:/:/bin/false
+nis::::::
huge:x:4294967295:1::/:
`;
const group = "root:x:0:\nweb:x:34:\nlogs:x:4:daemon,web\nother:x:5:webmaster\nlogs2:x:4:web\n";

test("a user by its name or number, with its groups", () => {
  const web = { name: "web", uid: 33, gid: 34, groups: [34, 4] };
  expect(userIn(passwd, group, "web")).toEqual(web);
  expect(userIn(passwd, group, "33")).toEqual(web);
  expect(userIn(passwd, "", "daemon")).toEqual({ name: "daemon", uid: 1, gid: 1, groups: [1] });
});

test("nobody else", () => {
  for (const name of ["", "we", "34", "broken line", "+nis", "huge", "4294967295", "web:x"]) {
    expect(userIn(passwd, group, name)).toBeUndefined();
  }
});

test("a group by its name", () => {
  expect(groupIdIn(group, "logs")).toBe(4);
  expect(groupIdIn(group, "root")).toBe(0);
  for (const name of ["", "4", "web:x", "daemon"]) expect(groupIdIn(group, name)).toBeUndefined();
});
