import { describe, expect, test } from "bun:test";
import { holdersOf, type ProcFiles } from "../../../../src/diagnose/snapshot/port-holder.ts";

const failure = (code: string) => Object.assign(new Error(code), { code });

/** Process 7 has the descriptors 3 and 4; `fails` names a path and the error of reading it. */
function proc(fails: Readonly<Record<string, string>>): ProcFiles {
  const links: Readonly<Record<string, string>> = {
    "/proc/7/fd/3": "socket:[30]",
    "/proc/7/fd/4": "socket:[40]",
  };
  const read = <T>(path: string, value: T): T => {
    if (fails[path] !== undefined) throw failure(fails[path]);
    return value;
  };
  return {
    list: (path) => read(path, path === "/proc" ? ["self", "7"] : ["3", "4"]),
    link: (path) => read(path, links[path] ?? ""),
    text: (path) => read(path, "tproxy\n"),
  };
}

describe("who has a socket", () => {
  const holder = { pid: 7, name: "tproxy" };

  test("is found by its descriptors", () => {
    expect(holdersOf([40], proc({})).get(40)).toEqual(holder);
    expect(holdersOf([41], proc({})).size).toBe(0);
  });

  test("is found when it closes another descriptor meanwhile", () => {
    expect(holdersOf([40], proc({ "/proc/7/fd/3": "ENOENT" })).get(40)).toEqual(holder);
  });

  test("is not known of another user's process, nor of one that has ended", () => {
    expect(holdersOf([40], proc({ "/proc/7/fd": "EACCES" })).size).toBe(0);
    expect(holdersOf([40], proc({ "/proc/7/comm": "ENOENT" })).get(40)?.pid).toBe(7);
  });

  test.each(["/proc", "/proc/7/fd"])(
    "is not guessed when there is no descriptor for %s",
    (path) => {
      expect(() => holdersOf([40], proc({ [path]: "EMFILE" }))).toThrow("EMFILE");
    },
  );
});
