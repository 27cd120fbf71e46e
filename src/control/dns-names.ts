/** Names whose addresses are looked up again when they may have changed. */

import {
  nameRefreshMs,
  nameRefreshMsMax,
  nameRefreshMsMin,
  nameRetryMs,
} from "../engine/limits.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { lookUp, type MarkOf, type NameAnswer } from "./look-up.ts";

/** The surroundings of a watched name; injected, so that tests have their own time and DNS. */
export interface NamesIo {
  readonly resolve: (name: string) => Promise<NameAnswer>;
  /** Calls `callback` after `ms`; returns a function that cancels it. */
  readonly after: (ms: number, callback: () => void) => () => void;
}

/** The events of a watched name. */
export interface NameListener {
  /** It has other addresses than before. */
  changed(): void;
  /** A line about it, said once for each time that it begins or ceases to fail. */
  say(line: string): void;
}

export class WatchedName {
  readonly name: string;
  /** In an order that does not depend on the resolver's. */
  addresses: readonly Address[] = [];
  /** Why the newest look-up has found nothing; empty if it has. */
  problem = "it is still looked up";
  private readonly io: NamesIo;
  private listener: NameListener | undefined;
  private failures = 0;
  /** The listener has been told that the name fails. */
  private isTold = false;
  private isClosed = false;
  private cancel: () => void = () => {};

  constructor(name: string, io: NamesIo) {
    this.name = name;
    this.io = io;
  }

  /** Looks it up, and again and again from now on. Settles after the first time. */
  async start(): Promise<void> {
    const answer = await this.io.resolve(this.name);
    if (!this.isClosed) this.take(answer);
  }

  /** Tells `listener` from now on, and at once if the name is not known. */
  watch(listener: NameListener): void {
    this.listener = listener;
    if (this.problem !== "") this.tellFailure();
  }

  /** Ends that. */
  close(): void {
    this.isClosed = true;
    this.listener = undefined;
    this.cancel();
  }

  private take(answer: NameAnswer): void {
    const isFound = answer.addresses.length > 0;
    this.problem = answer.problem;
    this.failures = isFound ? 0 : this.failures + 1;
    const delayMs = isFound ? refreshDelayMs(answer.ttlSeconds) : retryDelayMs(this.failures);
    this.cancel = this.io.after(delayMs, () => void this.start());
    if (!isFound) return this.tellFailure();
    if (this.isTold) this.listener?.say(`the name "${this.name}" is found again`);
    this.isTold = false;
    const before = this.addresses.map(formatAddress).join();
    // The known addresses of a family stay when no server has answered for it.
    const kept = this.addresses.filter(({ family }) => answer.unanswered.includes(family));
    this.addresses = sorted([...answer.addresses, ...kept]);
    if (this.addresses.map(formatAddress).join() !== before) this.listener?.changed();
  }

  private tellFailure(): void {
    if (this.isTold || this.listener === undefined) return;
    this.isTold = true;
    const { name, problem, addresses } = this;
    this.listener.say(
      addresses.length > 0
        ? `the name "${name}" is not found any more (${problem}): its old addresses stay`
        : `the name "${name}" is not found (${problem}): it is looked up again`,
    );
  }
}

/** When a name is looked up again that has been found: whatever its time to live is. */
function refreshDelayMs(ttlSeconds: number | undefined): number {
  if (ttlSeconds === undefined || !Number.isFinite(ttlSeconds)) return nameRefreshMs;
  return Math.min(Math.max(ttlSeconds * 1000, nameRefreshMsMin), nameRefreshMsMax);
}

/** When a name is looked up again that has not been found: the back-off doubles from 1 s. */
function retryDelayMs(failures: number): number {
  return Math.min(nameRefreshMsMin * 2 ** (failures - 1), nameRetryMs);
}

function sorted(addresses: readonly Address[]): readonly Address[] {
  const unique = new Map(addresses.map((address) => [formatAddress(address), address]));
  return [...unique.keys()].toSorted().map((key) => unique.get(key) as Address);
}

/** The DNS and the clock of this host; `mark` returns the mark of the sockets that ask. */
export function systemNamesIo(mark: MarkOf): NamesIo {
  return {
    resolve: (name) => lookUp(name, mark),
    after: (ms, callback) => {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
  };
}
