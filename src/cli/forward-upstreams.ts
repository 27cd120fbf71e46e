/** The upstreams that `--to` names: addresses as they are, names with all that they stand for. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { type NameListener, WatchedName } from "../control/names.ts";
import { upstreamsMax } from "../engine/limits.ts";
import type { Upstreams } from "../engine/protocol.ts";
import { quote } from "../net/result.ts";
import type { Target } from "../net/target.ts";
import { socketAddress } from "../proto/proxy-header.ts";
import { resolveTarget, toSocketAddress } from "./endpoints.ts";
import { CommandError, UsageError } from "./failure.ts";

/** One `--to`: what it stands for at the moment. */
interface Entry {
  readonly name: WatchedName | undefined;
  readonly addresses: () => readonly SocketAddress[];
}

export class UpstreamList {
  private readonly entries: readonly Entry[] | undefined;

  private constructor(entries: readonly Entry[] | undefined) {
    this.entries = entries;
  }

  /**
   * Looks up what is a name.
   * @throws UsageError for `original` beside others, CommandError for a name without an address
   */
  static async resolve(to: readonly (Target | "original")[]): Promise<UpstreamList> {
    if (to.includes("original")) {
      if (to.length > 1) throw new UsageError("--to original stands alone: give no other --to");
      return new UpstreamList(undefined);
    }
    const targets = to.filter((target) => target !== "original");
    return new UpstreamList(await Promise.all(targets.map(entryOf)));
  }

  /** The upstreams of this moment. */
  get upstreams(): Upstreams {
    if (this.entries === undefined) return { kind: "original" };
    return { kind: "fixed", addresses: this.fixed };
  }

  /** Those that are named, at this moment. */
  get fixed(): readonly SocketAddress[] {
    return this.entries?.flatMap(({ addresses }) => addresses()) ?? [];
  }

  /** From now on tells `changed` of other upstreams, and `say` of names that are not found. */
  watch(changed: (upstreams: Upstreams) => void, say: (line: string) => void): void {
    const listener: NameListener = { changed: () => this.tell(changed, say), say };
    this.warnOfTooMany(say);
    for (const { name } of this.entries ?? []) name?.watch(listener);
  }

  /** Ends that. */
  close(): void {
    for (const { name } of this.entries ?? []) name?.close();
  }

  private tell(changed: (upstreams: Upstreams) => void, say: (line: string) => void): void {
    this.warnOfTooMany(say);
    changed(this.upstreams);
  }

  private warnOfTooMany(say: (line: string) => void): void {
    const { upstreams } = this;
    const count = upstreams.kind === "fixed" ? upstreams.addresses.length : 0;
    if (count > upstreamsMax) say(`--to has ${count} addresses: the first ${upstreamsMax} count`);
  }
}

async function entryOf(target: Target): Promise<Entry> {
  const { host, port } = target;
  if (typeof host !== "string") {
    const fixed = [plain(await resolveTarget(target, { address: undefined }))];
    return { name: undefined, addresses: () => fixed };
  }
  const name = new WatchedName(host);
  if (!(await name.start())) {
    throw new CommandError(`--to: the name ${quote(host)} has no address`);
  }
  const addresses = () => name.addresses.map((address) => plain(toSocketAddress(address, port)));
  return { name, addresses };
}

/** An IPv4-mapped address is compared with clients and with our own as the IPv4 one that it is. */
function plain(resolved: SocketAddress): SocketAddress {
  const mapped = socketAddress(resolved.address, resolved.port);
  return mapped.address.length === 4 ? mapped : resolved;
}
