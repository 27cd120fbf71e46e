/** How many more threads this process may have: the kernel refuses one more in mid-flight. */

import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { RLIMIT_NPROC } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import { workersMax } from "../engine/limits.ts";
import { CommandError } from "../errors.ts";

/** A limit on threads, and what it leaves. */
export interface ThreadLimit {
  /** `pids.max of the control group /system.slice/tproxy.service is 10`. */
  readonly text: string;
  /** The settings by which it is raised. */
  readonly setting: string;
  /** Threads that may still be started. */
  readonly room: number;
}

/**
 * The cores that this process may run on, of which each gets a Worker at most: heeds
 * sched_setaffinity(2) and cgroups' cpusets, as taskset and container runtimes set them.
 */
export function coreCount(): number {
  return Math.min(availableParallelism(), workersMax);
}

/** How many Workers that are. */
export function workerCount(workers: number | "auto"): number {
  return workers === "auto" ? coreCount() : workers;
}

/** Threads that the runtime starts once it is at work: compilers, collectors, name look-ups. */
const threadsOfRuntime = 2 + Math.min(8, availableParallelism());

/**
 * Before anything is changed: a runtime that gets no thread aborts, and leaves behind what only
 * this process would have taken back.
 * @throws CommandError where the system allows too few threads
 */
export function checkThreads(workers: number): void {
  const limit = threadLimit();
  const wanted = workers + threadsOfRuntime;
  if (limit === undefined || limit.room >= wanted) return;
  const many = workers === 1 ? "a worker" : `${workers} workers`;
  throw new CommandError(
    `Cannot start ${many}: ${limit.text}, which leaves room for ${Math.max(0, limit.room)} ` +
      `threads, and ${wanted} are needed: raise it (${limit.setting})` +
      (workers > 1 ? ", or give fewer workers" : ""),
  );
}

/** The tightest limit; undefined without one, or if none can be read. */
function threadLimit(): ThreadLimit | undefined {
  const all = [...controlGroupLimits(), ...userLimits()];
  return all.reduce<ThreadLimit | undefined>(
    (least, each) => (least === undefined || each.room < least.room ? each : least),
    undefined,
  );
}

/** Those of the control groups that this process is in (pids.max), version 2 and 1. */
function* controlGroupLimits(): Generator<ThreadLimit> {
  for (const line of read("/proc/self/cgroup")?.split("\n") ?? []) {
    const [, controllers = "", path = ""] = line.split(":");
    const isUnified = line.startsWith("0::");
    if (!isUnified && controllers !== "pids") continue;
    const root = isUnified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";
    for (let at = path; ; at = at.slice(0, at.lastIndexOf("/"))) {
      const max = Number(read(`${root}${at}/pids.max`) ?? Number.NaN);
      const current = Number(read(`${root}${at}/pids.current`) ?? Number.NaN);
      if (max >= 0 && current >= 0) {
        const text = `pids.max of the control group ${at || "/"} is ${max}`;
        yield { text, setting: "TasksMax=", room: max - current };
      }
      if (at === "" || at === "/") break;
    }
  }
}

/** RLIMIT_NPROC counts the threads of a user; it is of no account to the host's root (fork(2)). */
function* userLimits(): Generator<ThreadLimit> {
  const limit = sys.getrlimit(RLIMIT_NPROC);
  const uid = process.getuid?.() ?? 0;
  // Far from its limit a user's processes are not worth the counting.
  if (typeof limit === "number" || limit.soft > countedMax) return;
  const isHosts = /^\s*0\s+0\s+4294967295\s*$/.test(read("/proc/self/uid_map") ?? "");
  if (uid === 0 && isHosts) return;
  const text = `the limit on threads of user ${uid} is ${limit.soft}`;
  yield { text, setting: "LimitNPROC=, ulimit -u", room: limit.soft - threadsOf(uid) };
}

const countedMax = 4096;

/** Threads of a user that are seen here: /proc may hide those of other namespaces. */
function threadsOf(uid: number): number {
  let threads = 0;
  for (const pid of list("/proc")) {
    const status = /^\d+$/.test(pid) ? read(`/proc/${pid}/status`) : undefined;
    if (status === undefined || Number(/^Uid:\s*(\d+)/m.exec(status)?.[1]) !== uid) continue;
    threads += Number(/^Threads:\s*(\d+)/m.exec(status)?.[1] ?? 1);
  }
  return threads;
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}
