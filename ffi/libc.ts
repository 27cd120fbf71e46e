/**
 * libc's symbols: THE table, and the only `dlopen`. One table serves glibc and musl, which export
 * all of these under the same names. Pointers are passed as numbers (see `memory.ts`), results of
 * type `ssize_t` as `i64_fast`, which is a number and not a BigInt.
 *
 * Each thread that imports this file gets its own bindings and its own errno latch.
 */

import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";

const prototypes = {
  accept: { args: ["i32", "ptr", "ptr"], returns: "i32" }, // int accept(int, struct sockaddr *, socklen_t *)
  accept4: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" }, // int accept4(int, struct sockaddr *, socklen_t *, int)
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" }, // int bind(int, const struct sockaddr *, socklen_t)
  capget: { args: ["ptr", "ptr"], returns: "i32" }, // int capget(struct __user_cap_header_struct *, struct __user_cap_data_struct *)
  capset: { args: ["ptr", "ptr"], returns: "i32" }, // int capset(struct __user_cap_header_struct *, const struct __user_cap_data_struct *)
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" }, // int clock_gettime(clockid_t, struct timespec *)
  close: { args: ["i32"], returns: "i32" }, // int close(int)
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" }, // int connect(int, const struct sockaddr *, socklen_t)
  epoll_create1: { args: ["i32"], returns: "i32" }, // int epoll_create1(int)
  epoll_ctl: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" }, // int epoll_ctl(int, int, int, struct epoll_event *)
  epoll_wait: { args: ["i32", "ptr", "i32", "i32"], returns: "i32" }, // int epoll_wait(int, struct epoll_event *, int, int)
  eventfd: { args: ["u32", "i32"], returns: "i32" }, // int eventfd(unsigned int, int)
  fchown: { args: ["i32", "u32", "u32"], returns: "i32" }, // int fchown(int, uid_t, gid_t)
  fcntl: { args: ["i32", "i32", "i64_fast"], returns: "i32" }, // int fcntl(int, int, ...)
  getppid: { args: [], returns: "i32" }, // pid_t getppid(void)
  getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" }, // int getpeername(int, struct sockaddr *, socklen_t *)
  getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" }, // int getsockname(int, struct sockaddr *, socklen_t *)
  getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" }, // int getsockopt(int, int, int, void *, socklen_t *)
  getxattr: { args: ["ptr", "ptr", "ptr", "u64_fast"], returns: "i64_fast" }, // ssize_t getxattr(const char *, const char *, void *, size_t)
  ioctl: { args: ["i32", "u64_fast", "i64_fast"], returns: "i32" }, // int ioctl(int, unsigned long, ...)
  listen: { args: ["i32", "i32"], returns: "i32" }, // int listen(int, int)
  pipe2: { args: ["ptr", "i32"], returns: "i32" }, // int pipe2(int[2], int)
  prctl: { args: ["i32", "u64_fast", "u64_fast", "u64_fast", "u64_fast"], returns: "i32" }, // int prctl(int, ...)
  prlimit: { args: ["i32", "i32", "ptr", "ptr"], returns: "i32" }, // int prlimit(pid_t, int, const struct rlimit *, struct rlimit *)
  read: { args: ["i32", "ptr", "u64_fast"], returns: "i64_fast" }, // ssize_t read(int, void *, size_t)
  recv: { args: ["i32", "ptr", "u64_fast", "i32"], returns: "i64_fast" }, // ssize_t recv(int, void *, size_t, int)
  recvmsg: { args: ["i32", "ptr", "i32"], returns: "i64_fast" }, // ssize_t recvmsg(int, struct msghdr *, int)
  send: { args: ["i32", "ptr", "u64_fast", "i32"], returns: "i64_fast" }, // ssize_t send(int, const void *, size_t, int)
  sendmsg: { args: ["i32", "ptr", "i32"], returns: "i64_fast" }, // ssize_t sendmsg(int, const struct msghdr *, int)
  setgroups: { args: ["u64_fast", "ptr"], returns: "i32" }, // int setgroups(size_t, const gid_t *)
  setns: { args: ["i32", "i32"], returns: "i32" }, // int setns(int, int)
  setresgid: { args: ["u32", "u32", "u32"], returns: "i32" }, // int setresgid(gid_t, gid_t, gid_t)
  setresuid: { args: ["u32", "u32", "u32"], returns: "i32" }, // int setresuid(uid_t, uid_t, uid_t)
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" }, // int setsockopt(int, int, int, const void *, socklen_t)
  shutdown: { args: ["i32", "i32"], returns: "i32" }, // int shutdown(int, int)
  socket: { args: ["i32", "i32", "i32"], returns: "i32" }, // int socket(int, int, int)
  socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" }, // int socketpair(int, int, int, int[2])
  splice: { args: ["i32", "ptr", "i32", "ptr", "u64_fast", "u32"], returns: "i64_fast" }, // ssize_t splice(int, off64_t *, int, off64_t *, size_t, unsigned int)
  syscall: { args: ["i64_fast", "i32", "ptr", "u32", "i32", "ptr"], returns: "i64_fast" }, // long syscall(long, ...)
  unshare: { args: ["i32"], returns: "i32" }, // int unshare(int)
  write: { args: ["i32", "ptr", "u64_fast"], returns: "i64_fast" }, // ssize_t write(int, const void *, size_t)
  __errno_location: { args: [], returns: "ptr" }, // int *__errno_location(void)
} as const;

/** A tuple of as many numbers as the tuple `Types` has members. */
type Numbers<Types extends readonly unknown[]> = { [Index in keyof Types]: number };

/** The JavaScript side of the table: every argument and result is a number, NULL is 0. */
type Bindings = {
  readonly [Name in keyof typeof prototypes]: (
    ...args: Numbers<(typeof prototypes)[Name]["args"]>
  ) => number;
};

/** Where a dynamic loader finds libc: glibc's name first, then musl's for each architecture. */
const sonames = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libc.so"];

function open(): Bindings {
  let reason: unknown;
  for (const soname of sonames) {
    try {
      // The declarations of bun:ffi lack the `_fast` types that its documentation names.
      return dlopen(soname, prototypes as never).symbols as unknown as Bindings;
    } catch (error) {
      reason ??= error;
    }
  }
  throw new Error(`no usable libc (tried ${sonames.join(", ")}): ${String(reason)}`);
}

export const libc = open();

// errno's address is fixed for a thread, so a view over it is read in about 2 ns.
const errnoAddress = libc.__errno_location() as Pointer;
const errnoCell = new Int32Array(toArrayBuffer(errnoAddress, 0, 4));

/** This thread's errno: read it right after the call that failed, before anything else. */
export function errno(): number {
  return errnoCell[0] as number;
}
