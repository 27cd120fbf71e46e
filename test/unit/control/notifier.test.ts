/** Messages to the service manager, on sockets that are read, are full or are not there. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { fstatSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM } from "../../../ffi/constants.ts";
import { check, EAGAIN } from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import { encodeSockaddrUn, receiveUnix } from "../../../ffi/unix-socket.ts";
import { Notifier } from "../../../src/control/systemd/notifier.ts";
import { Watchdog, watchdogPeriodMs } from "../../../src/control/systemd/watchdog.ts";

const name = allocate(128);
let folder = "";
let path = "";
let manager = -1;
let warnings: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tproxy-notify-"));
  path = join(folder, "notify");
  warnings = [];
  manager = check(sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  check(sys.bind(manager, name.address, encodeSockaddrUn(name.view, path)), "bind");
});
afterEach(() => {
  sys.close(manager);
  rmSync(folder, { recursive: true });
});

const open = (at = path) => new Notifier(at, (text) => warnings.push(text));

function next(): { text: string; inodes: number[] } | undefined {
  const message = receiveUnix(manager);
  if (typeof message === "number") {
    expect(message).toBe(-EAGAIN);
    return undefined;
  }
  const inodes = message.descriptors.map((fd) => fstatSync(fd).ino);
  for (const fd of message.descriptors) sys.close(fd);
  return { text: new TextDecoder().decode(message.bytes), inodes };
}

function all(): string[] {
  const texts: string[] = [];
  for (let message = next(); message !== undefined; message = next()) texts.push(message.text);
  return texts;
}

test("a line cannot break, so no value can add a variable", () => {
  const notifier = open();
  notifier.ready("a\nMAINPID=1\r\u0000b");
  expect(all()).toEqual(["READY=1\nSTATUS=a MAINPID=1 b\n"]);
  notifier.close();
});

test("what the manager gets", () => {
  const notifier = open();
  const before = sys.monotonicUs();
  notifier.ready("serving");
  notifier.reloading();
  notifier.status("2 services");
  notifier.mainPid(7);
  notifier.watchdog();
  notifier.store("tproxy.web.0", manager);
  expect(next()?.text).toBe("READY=1\nSTATUS=serving\n");
  const [, time = ""] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)\n$/.exec(next()?.text ?? "") ?? [];
  expect(BigInt(time)).toBeGreaterThanOrEqual(before);
  expect(BigInt(time)).toBeLessThanOrEqual(sys.monotonicUs());
  expect(next()?.text).toBe("STATUS=2 services\n");
  expect(next()?.text).toBe("MAINPID=7\n");
  expect(next()?.text).toBe("WATCHDOG=1\n");
  expect(next()).toEqual({
    text: "FDSTORE=1\nFDNAME=tproxy.web.0\nFDPOLL=0\n",
    inodes: [fstatSync(manager).ino],
  });
  notifier.forget("tproxy.web.0");
  notifier.stopping("done");
  expect(all()).toEqual(["FDSTOREREMOVE=1\nFDNAME=tproxy.web.0\n", "STOPPING=1\nSTATUS=done\n"]);
  notifier.close();
  notifier.ready("too late");
  expect([all(), warnings]).toEqual([[], []]);
});

test("what there is no room for is sent later, in its order", async () => {
  const notifier = open();
  const wanted = Array.from({ length: 1_000 }, (_, index) => `STATUS=${index}\n`);
  for (const index of wanted.keys()) notifier.status(String(index));
  const got: string[] = [];
  while (got.length < wanted.length) {
    got.push(...all());
    await Bun.sleep(1);
  }
  expect(got).toEqual(wanted);
  expect(warnings).toEqual([]);
  notifier.close();
});

describe("hurts nobody:", () => {
  test.each([
    ["/nonexistent/notify", "No such file or directory (ENOENT)"],
    ["@nobody-listens-here", "Connection refused (ECONNREFUSED)"],
    ["", "Invalid argument (EINVAL)"],
    ["relative/nowhere", "No such file or directory (ENOENT)"],
    [`/${"x".repeat(200)}`, "Invalid argument (EINVAL)"],
    ["/dev/null", "Connection refused (ECONNREFUSED)"],
  ])("NOTIFY_SOCKET=%s is one warning", (at, reason) => {
    const notifier = open(at);
    notifier.ready("x");
    notifier.store("tproxy.web.0", manager);
    notifier.watchdog();
    expect(warnings.length).toBe(1);
    expect(warnings[0]).toStartWith("cannot notify the service manager at NOTIFY_SOCKET=");
    expect(warnings[0]).toEndWith(reason);
    notifier.close();
  });

  test("a descriptor that is closed drops its own message alone", () => {
    const notifier = open();
    notifier.store("tproxy.web.0", 1 << 30);
    notifier.ready("x");
    expect(all()).toEqual(["READY=1\nSTATUS=x\n"]);
    expect(warnings.length).toBe(1);
    notifier.close();
  });

  test("no manager at all", () => {
    expect(Notifier.fromEnvironment({}, () => {})).toBeUndefined();
    expect(Notifier.fromEnvironment({ NOTIFY_SOCKET: "" }, () => {})).toBeUndefined();
    expect(Notifier.fromEnvironment({ NOTIFY_SOCKET: path }, () => {})).toBeDefined();
  });
});

describe("the watchdog", () => {
  test.each([
    [{}, undefined],
    [{ WATCHDOG_USEC: "20000000" }, 20_000],
    [{ WATCHDOG_USEC: "20000000", WATCHDOG_PID: "7" }, 20_000],
    [{ WATCHDOG_USEC: "20000000", WATCHDOG_PID: "8" }, undefined],
    [{ WATCHDOG_USEC: "0" }, undefined],
    [{ WATCHDOG_USEC: "-1" }, undefined],
    [{ WATCHDOG_USEC: "soon" }, undefined],
  ])("of %p has the period %p", (env, period) => {
    expect(watchdogPeriodMs(env as NodeJS.ProcessEnv, 7)).toBe(period);
  });

  test("is fed while all Workers turn, and not while one hangs", () => {
    let fed = 0;
    let asked = 0;
    const workers = { allTurned: false, askForTurn: () => void asked++ };
    let look = () => {};
    let everyMs = 0;
    const watchdog = new Watchdog(workers, { watchdog: () => void fed++ }, 20_000, (next, ms) => {
      look = next;
      everyMs = ms;
      return setTimeout(() => {}, 0);
    });
    expect([fed, asked, everyMs]).toEqual([1, 1, 5_000]);
    look();
    look();
    expect([fed, asked]).toEqual([1, 1]);
    workers.allTurned = true;
    look();
    expect([fed, asked]).toEqual([2, 2]);
    watchdog.close();
  });
});
