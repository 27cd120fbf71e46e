/** The upstreams of a pool: addresses as they are, names with all that they stand for. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark } from "../../ffi/types.ts";
import { nameStartMs, upstreamsMax } from "../engine/limits.ts";
import { quote } from "../net/result.ts";
import type { Target } from "../net/target.ts";
import { socketAddress } from "../proto/proxy-header.ts";
import { type NameListener, systemNamesIo, WatchedName } from "./dns-names.ts";
import { toSocketAddress } from "./endpoints.ts";
import { type MarkOf, scopeOf } from "./look-up.ts";

/** One upstream as it is named: what it stands for at the moment. */
interface Entry {
  readonly name: WatchedName | undefined;
  readonly addresses: () => readonly SocketAddress[];
}

export class UpstreamList {
  /** Of the sockets that look up names from now on, so that no capture of ours takes them. */
  mark: Mark | undefined;
  private readonly entries: readonly Entry[] | undefined;

  private constructor(entries: readonly Entry[] | undefined) {
    this.entries = entries;
  }

  /**
   * Looks up what is a name. Once one upstream is known, the names that are still looked up are
   * awaited for a short time only; without one, for `waitMs`. `mark` is that of the sockets that
   * ask (SO_MARK).
   */
  static async resolve(
    to: readonly (Target | "original")[],
    mark: Mark | undefined,
    waitMs = Number.POSITIVE_INFINITY,
  ): Promise<UpstreamList> {
    if (to.includes("original")) return new UpstreamList(undefined);
    const list: UpstreamList = new UpstreamList(
      to
        .filter((target) => target !== "original")
        .map((target) => entryOf(target, () => list.mark)),
    );
    list.mark = mark;
    await list.start(waitMs);
    return list;
  }

  private async start(waitMs: number): Promise<void> {
    const known = Promise.withResolvers<void>();
    const look = () => {
      if (this.fixed.length > 0) known.resolve();
    };
    look();
    const names = (this.entries ?? []).flatMap(({ name }) => name ?? []);
    const all = Promise.all(names.map((name) => name.start().then(look)));
    const enough = known.promise.then(() => Bun.sleep(nameStartMs));
    const waits = Number.isFinite(waitMs) ? [Bun.sleep(waitMs)] : [];
    await Promise.race([all, enough, ...waits]);
  }

  /** Whether no upstream has an address. */
  get isUnknown(): boolean {
    return this.entries !== undefined && this.fixed.length === 0;
  }

  /** The names that are not found at this moment, each with the reason. */
  get problems(): string[] {
    return (this.entries ?? []).flatMap(({ name }) =>
      name === undefined || name.problem === ""
        ? []
        : [`the name ${quote(name.name)} (${name.problem})`],
    );
  }

  /** Those that are named, at this moment. */
  get fixed(): readonly SocketAddress[] {
    return this.entries?.flatMap(({ addresses }) => addresses()) ?? [];
  }

  /** The addresses of one of them, by its place in the pool. */
  addressesOf(index: number): readonly SocketAddress[] {
    return this.entries?.[index]?.addresses() ?? [];
  }

  /** From now on calls `changed` when addresses change, and `say` for names that are not found. */
  watch(changed: () => void, say: (line: string) => void): void {
    const listener: NameListener = {
      changed: () => {
        this.warnOfTooMany(say);
        changed();
      },
      say,
    };
    this.warnOfTooMany(say);
    for (const { name } of this.entries ?? []) name?.watch(listener);
  }

  /** Ends that. */
  close(): void {
    for (const { name } of this.entries ?? []) name?.close();
  }

  private warnOfTooMany(say: (line: string) => void): void {
    const count = this.fixed.length;
    if (count > upstreamsMax) say(`to has ${count} addresses: the first ${upstreamsMax} count`);
  }
}

function entryOf({ host, port }: Target, mark: MarkOf): Entry {
  if (typeof host !== "string") {
    const fixed = [plain(toSocketAddress(host, port))];
    return { name: undefined, addresses: () => fixed };
  }
  const name = new WatchedName(host, systemNamesIo(mark));
  const addresses = () =>
    name.addresses.flatMap((address) => {
      const scopeId = scopeOf(address);
      return scopeId < 0 ? [] : [plain({ address: address.bytes, port, scopeId })];
    });
  return { name, addresses };
}

/** An IPv4-mapped address is compared with clients and with our own as the IPv4 one that it is. */
function plain(resolved: SocketAddress): SocketAddress {
  const mapped = socketAddress(resolved.address, resolved.port);
  return mapped.address.length === 4 ? mapped : resolved;
}
