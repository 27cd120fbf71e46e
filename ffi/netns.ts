/**
 * Network namespaces held by a descriptor and nothing else: no name, no mount. One lives while a
 * descriptor, a thread or a socket in it does, so it is gone with its process, however that ends.
 *
 * Entering moves the calling thread alone, and every thread, process and socket it makes meanwhile
 * belongs there. Hence only a synchronous function can be run inside. Under an ordinary user all
 * of this needs an outer `unshare -Urn`: making needs CAP_SYS_ADMIN, and coming back needs it in
 * the user namespace that owns the namespace to return to. See network_namespaces(7), setns(2).
 */

import assert from "node:assert/strict";
import { closeSync, openSync } from "node:fs";
import { CLONE_NEWNET } from "./constants.ts";
import { ownsNetwork } from "./credentials.ts";
import { check, EPERM, SyscallError } from "./errno.ts";
import * as sys from "./sys.ts";
import type { Fd } from "./types.ts";

/** The calling thread's, which need not be that of /proc/self. */
const currentPath = "/proc/thread-self/ns/net";

export class NetworkNamespace {
  /** For `setns`, and for IFLA_NET_NS_FD of rtnetlink. Close-on-exec. */
  readonly fd: Fd;
  #isOpen = true;

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** A descriptor of the namespace that the calling thread is in. */
  static current(): NetworkNamespace {
    return new NetworkNamespace(openSync(currentPath, "r") as Fd);
  }

  /**
   * Makes an empty namespace, whose lo is down. The calling thread stays where it is.
   * @throws SyscallError EPERM without CAP_SYS_ADMIN, or where there would be no way back
   */
  static create(): NetworkNamespace {
    if (ownsNetwork() === false) throw new SyscallError("setns", EPERM, "CLONE_NEWNET");
    const leave = () => check(sys.unshare(CLONE_NEWNET), "unshare", "CLONE_NEWNET");
    return comingBack(leave, () => NetworkNamespace.current());
  }

  /**
   * Runs a synchronous function inside and comes back, also when it throws. Processes that are
   * spawned in it stay in the namespace.
   * @throws SyscallError, and what `inside` throws
   */
  run<T>(inside: () => T extends PromiseLike<unknown> ? never : T): T {
    assert(this.#isOpen, "the network namespace is closed");
    const leave = () => check(sys.setns(this.fd, CLONE_NEWNET), "setns", "network namespace");
    return comingBack(leave, () => {
      const result = inside();
      assert(!(result instanceof Promise), "an asynchronous function in a network namespace");
      return result;
    });
  }

  /** Closes the namespace's descriptor. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Leaves the thread's namespace, runs `inside`, and returns the thread to where it was. */
function comingBack<T>(leave: () => void, inside: () => T): T {
  const home = openSync(currentPath, "r");
  try {
    // A refusal leaves the thread at home, where it may not be allowed to return to.
    leave();
    try {
      return inside();
    } finally {
      const result = sys.setns(home, CLONE_NEWNET);
      assert.equal(result, 0, "the thread cannot return to its network namespace");
    }
  } finally {
    closeSync(home);
  }
}
