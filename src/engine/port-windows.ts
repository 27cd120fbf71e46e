/**
 * Small random windows of local ports for connect(2). Left alone, the kernel looks for a free port
 * from where it found the last one: it walks past all that one address has in use towards one
 * upstream (TIME_WAIT included), which takes milliseconds once there are thousands. In a window of
 * 64 ports (IP_LOCAL_PORT_RANGE, Linux 6.3) it walks past 64 at the most.
 */

import { readFileSync } from "node:fs";
import { IP_LOCAL_PORT_RANGE, IPPROTO_IP } from "../../ffi/constants.ts";
import { EADDRNOTAVAIL } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import type { Result } from "../../ffi/types.ts";
import { portWalkShare, portWindow, portWindowsTried, portWindowsWorthwhile } from "./limits.ts";
import { randomWord } from "./random.ts";

/** The ports that the kernel chooses from, the last one included. */
interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** The kernel's default. */
const DEFAULT_RANGE: PortRange = { first: 32_768, last: 60_999 };
const RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range";

/** net.ipv4.ip_local_port_range of this network namespace, which counts for IPv6 as well. */
function readPortRange(): PortRange {
  try {
    const words = readFileSync(RANGE_FILE, "utf8").trim().split(/\s+/);
    const [first = Number.NaN, last = Number.NaN] = words.map(Number);
    return first >= 1 && first <= last && last <= 65_535 ? { first, last } : DEFAULT_RANGE;
  } catch {
    return DEFAULT_RANGE;
  }
}

/** Chooses the windows of one Worker. */
export class PortWindows {
  private readonly range: PortRange;
  private readonly random: () => number;
  /** The kernel has refused the option: it is not tried again. */
  private isRefused = false;
  /** Until when the whole range is not walked again. */
  private walkAgainAt = Number.NEGATIVE_INFINITY;

  /** `random` returns any 32-bit number. */
  constructor(range: PortRange = readPortRange(), random: () => number = randomWord) {
    this.range = range;
    this.random = random;
  }

  /**
   * Connects `fd`, which has no port yet, by `connect`, and returns its result. Where a window has
   * no free port another one is tried, then the whole range. That walk is long and nearly always
   * fails, so it gets a fixed share of the time, and meanwhile the result is -EADDRNOTAVAIL.
   */
  connect(fd: number, connect: () => Result): Result {
    // A walk through a short range costs little.
    if (this.range.last - this.range.first < portWindowsWorthwhile) return connect();
    for (let tries = 0; tries < portWindowsTried && this.setWindow(fd); tries++) {
      const result = connect();
      if (result !== -EADDRNOTAVAIL) return result;
    }
    return this.isRefused ? connect() : this.walk(fd, connect);
  }

  /** A window within the range, as the option's value: the last port in the upper half. */
  next(): number {
    const { first, last } = this.range;
    const starts = Math.max(1, last - first + 2 - portWindow);
    const low = first + (this.random() % starts);
    const high = Math.min(last, low + portWindow - 1);
    return ((high << 16) | low) >>> 0;
  }

  /** Any port of the range. */
  anyPort(): number {
    const { first, last } = this.range;
    return first + (this.random() % (last - first + 1));
  }

  private walk(fd: number, connect: () => Result): Result {
    const from = performance.now();
    if (from < this.walkAgainAt) return -EADDRNOTAVAIL;
    sys.setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0);
    const result = connect();
    const to = performance.now();
    this.walkAgainAt = to + (to - from) / portWalkShare;
    return result;
  }

  private setWindow(fd: number): boolean {
    if (this.isRefused) return false;
    this.isRefused = sys.setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, this.next() | 0) < 0;
    return !this.isRefused;
  }
}
