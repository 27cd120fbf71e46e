/**
 * The listening sockets that the service manager keeps for the next process
 * (FileDescriptorStoreMax=): after a crash or a restart clients wait in their queues, and none is
 * refused. Only those that serve are kept there: the queue of another one would swallow
 * connections.
 */

import { fstatSync } from "node:fs";
import type { Notifier } from "./notifier.ts";
import { storedName } from "./passed-sockets.ts";

/** A listening socket of a service. */
export interface ListeningSocket {
  readonly service: string;
  readonly fd: number;
}

export class FdStore {
  private readonly notifier: Pick<Notifier, "store" | "forget">;
  /** By inode, the name that each kept socket has there. */
  private readonly names: Map<number, string>;
  /** Inodes of sockets that units of the manager own: it passes them every time. */
  private readonly owned: ReadonlySet<number>;

  /** `names` are those that are kept already, `owned` those that the manager owns, by inode. */
  constructor(
    notifier: Pick<Notifier, "store" | "forget">,
    names: ReadonlyMap<number, string>,
    owned: ReadonlySet<number>,
  ) {
    this.notifier = notifier;
    this.names = new Map(names);
    this.owned = owned;
  }

  /** Has the manager keep just these from now on. */
  keep(sockets: readonly ListeningSocket[]): void {
    const wanted = new Map(sockets.map((each) => [fstatSync(each.fd).ino, each]));
    for (const [inode, name] of [...this.names]) {
      if (wanted.has(inode)) continue;
      this.names.delete(inode);
      this.notifier.forget(name);
    }
    const taken = new Set(this.names.values());
    for (const [inode, { service, fd }] of wanted) {
      if (this.names.has(inode) || this.owned.has(inode)) continue;
      let index = 0;
      while (taken.has(storedName(service, index))) index++;
      const name = storedName(service, index);
      taken.add(name);
      this.names.set(inode, name);
      this.notifier.store(name, fd);
    }
  }

  /** The descriptors there, for the process that takes over. */
  get kept(): ReadonlyMap<number, string> {
    return this.names;
  }
}
