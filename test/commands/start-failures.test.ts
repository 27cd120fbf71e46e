/** What keeps tproxy from starting is told in one line of its own, with the setting to change. */

import { describe, expect, test } from "bun:test";
import { faultText } from "../../src/internal-error.ts";
import { testWith, which } from "../helpers/tools.ts";
import { run, tproxy } from "../helpers/tproxy.ts";

const isBuilt = tproxy.length === 1;
const isRoot = process.getuid?.() === 0;

describe("a process that may not make executable memory", () => {
  // PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute= sets. Since Linux 6.3.
  const script =
    "import ctypes,os,sys\nif ctypes.CDLL(None).prctl(65,1,0,0,0)!=0: sys.exit(77)\n" +
    "os.execvp(sys.argv[1],sys.argv[1:])";
  const prefix = ["python3", "-c", script];
  const knows = which("python3") && Bun.spawnSync([...prefix, "true"]).success;
  const testMdwe = testWith(["python3"], { PR_SET_MDWE: Boolean(knows), "the build": isBuilt });

  testMdwe(
    "says so, whatever the command",
    async () => {
      for (const words of ["routes --print", "listen :0", "doctor", "forward :0 --to original"]) {
        const { status, stdout, stderr } = await run(words.split(" "), { prefix });
        expect(stderr).toMatch(/^tproxy: [^\n]*MemoryDenyWriteExecute=no[^\n]*\n$/);
        expect([status, stdout]).toEqual([1, ""]);
      }
      expect((await run(["--version"], { prefix })).status).toBe(0);
    },
    240_000,
  );

  testWith([], { "the build": isBuilt })("so does one with little address space", async () => {
    const small = ["sh", "-c", 'ulimit -v 1500000; exec "$@"', "sh"];
    const { status, stderr } = await run(["routes", "--print"], { prefix: small });
    expect(stderr).toMatch(/^tproxy: [^\n]*LimitAS=, ulimit -v\) to 4 GB\n$/);
    expect(status).toBe(1);
  });
});

describe("too few threads", () => {
  // A user of whom nothing else runs.
  const as = ["setpriv", "--reuid=54397", "--regid=54397", "--clear-groups", "--bounding-set=-all"];
  const testThreads = testWith(["setpriv", "prlimit"], { root: isRoot, "the build": isBuilt });

  testThreads("nothing is started", async () => {
    const own = "forward --no-transparent --source self 127.0.0.1:0 --to 127.0.0.1:9";
    for (const line of ["listen --no-transparent 127.0.0.1:0", own]) {
      const { status, stdout, stderr } = await run([...line.split(" "), "--workers", "64"], {
        prefix: [...as, "prlimit", "--nproc=40"],
      });
      expect(stderr).toMatch(
        /^tproxy: Cannot start 64 workers: the limit on threads of user 54397 is 40, [^\n]*\n$/,
      );
      expect(stderr).toContain("raise it (LimitNPROC=, ulimit -u), or give fewer workers");
      expect([status, stdout]).toEqual([1, ""]);
    }
  });
});

test("what nobody has foreseen is one line, and where it happened", () => {
  const error = new Error("it broke\nand more");
  error.stack = `1 | source\n2 | source\n\nError: it broke\n${"    at f (x:1:2)\n".repeat(20)}`;
  const lines = faultText(error).trimEnd().split("\n");
  expect(lines[0]).toBe("tproxy: internal error: it broke");
  expect(lines.slice(1)).toEqual(Array(8).fill("    at f (x:1:2)"));
  const noProc = new Error("ENOENT: no such file or directory, open '/proc/self/status'");
  expect(faultText(noProc)).toBe("tproxy: /proc is not mounted here, and this command reads it\n");
  expect(faultText("a string")).toBe("tproxy: internal error: a string\n");
});
