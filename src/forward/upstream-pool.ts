/**
 * The upstreams of one Worker: which one a connection gets, and which ones back off because they
 * keep failing. Pure: time and the board are handed in, and a listener is told what happens. Each
 * Worker has a pool of its own, so none waits for another; each finds out by itself that an
 * upstream fails. That an upstream is drained or down is on the board, for all of them.
 *
 * Every `pick` is followed by one `failed`, or by one `closed` with or without `connected` before.
 * An upstream that fails several times in a row backs off. After that time one connection tries it,
 * and the others only if that succeeds; otherwise it backs off twice as long, up to a bound.
 *
 * A client can forge an ICMP error about what is sent in its name, and an upstream may refuse it
 * alone. So a failure is evidence of the client in whose name the connection was made: an upstream
 * backs off for all when several clients are witnesses, or our own address is. A failure that one
 * client alone has seen makes the upstream back off for that client (`ClientBackOffs`). The same
 * applies to silence, which is evidence only if other upstreams have answered meanwhile.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { hashedSlotCount } from "../capture/kernel-path/intent.ts";
import { hashSeed } from "../capture/plan/flow-rule.ts";
import { upstreamsMax } from "../engine/limits.ts";
import type { PooledAddress, PoolRules } from "../workers/protocol.ts";
import {
  type ConnectFailure,
  isDown,
  type UpstreamBoard,
  UpstreamCounter,
} from "../workers/upstream-board.ts";
import { ClientBackOffs, clientKey } from "./client-back-offs.ts";
import { clientSlot } from "./hash.ts";
import { newUpstream, shareAt, type Upstream, upstreamKey } from "./upstream.ts";
import { chooseByShare, chooseInTurn, downLongest, type Scope } from "./upstream-choice.ts";

/** What happens to an upstream: every failure, and each back-off once. */
export interface PoolListener {
  fails(upstream: Upstream): void;
  /** It is left alone for `upstream.backOffMs`; `reason` is that of its last failure. */
  backsOff(upstream: Upstream, reason: string): void;
  /** The same for connections of `client` alone. */
  backsOffFor(upstream: Upstream, client: Uint8Array, ms: number, reason: string): void;
  recovered(upstream: Upstream): void;
}

/** The part of the board that a pool reads and writes. */
export type PoolBoard = Pick<UpstreamBoard, "count" | "rampFrom" | "state" | "version" | "weight">;

/** For a first attempt, where nothing has been tried. */
export const NONE_TRIED: readonly Upstream[] = [];

/** What a pool counts at each pick, and what is open. */
const countersOf = {
  tcp: { begun: UpstreamCounter.connects, open: UpstreamCounter.open },
  udp: { begun: UpstreamCounter.sessions, open: UpstreamCounter.openSessions },
} as const;

export class UpstreamPool {
  private rules: PoolRules;
  private readonly listener: PoolListener;
  private readonly board: PoolBoard;
  private readonly counters: (typeof countersOf)["tcp" | "udp"];
  /** Those that are no backups come first. */
  private members: readonly Upstream[] = [];
  private backupsFrom = 0;
  /** Of the board when it was last read. */
  private version = Number.NaN;
  /** All that take connections have one share, which does not change. */
  private isEven = true;
  /** Some share rises. */
  private isRising = false;
  /** Those that went down since they were last taken. */
  private fallen: Upstream[] = [];
  private readonly scope: Scope;
  private clientBackOffs: ClientBackOffs<Upstream>;

  /** A pool of these addresses; of equal ones, and beyond `upstreamsMax`, the first count. */
  constructor(
    rules: PoolRules,
    addresses: readonly PooledAddress[],
    board: PoolBoard,
    listener: PoolListener,
    protocol: "tcp" | "udp" = "tcp",
  ) {
    this.rules = rules;
    this.listener = listener;
    this.board = board;
    this.counters = countersOf[protocol];
    this.scope = {
      ...{ members: [], balance: rules.balance, family: 0, tried: NONE_TRIED },
      ...{ avoided: undefined, source: 0, turn: 0, now: 0 },
    };
    this.clientBackOffs = new ClientBackOffs(rules.backOff);
    this.replace(addresses);
  }

  /** From now on these rules apply. Back-offs for one client alone are forgotten. */
  useRules(rules: PoolRules): void {
    this.rules = rules;
    this.scope.balance = rules.balance;
    this.clientBackOffs = new ClientBackOffs(rules.backOff);
  }

  /** From now on these are the upstreams. What is known of those that stay is kept. */
  replace(addresses: readonly PooledAddress[]): void {
    const known = new Map(this.members.map((member) => [member.key, member]));
    const members = new Map<string, Upstream>();
    for (const pooled of addresses) {
      const key = upstreamKey(pooled.address);
      if (members.has(key)) continue;
      if (members.size === upstreamsMax) break;
      const old = known.get(key);
      const member = old?.slot === pooled.slot ? old : newUpstream(pooled, key);
      member.isBackup = pooled.isBackup;
      member.slowStartMs = pooled.slowStartMs;
      members.set(key, member);
    }
    const [primaries, backups] = [false, true].map((isBackup) =>
      [...members.values()].filter((member) => member.isBackup === isBackup),
    ) as [Upstream[], Upstream[]];
    for (const old of this.members) {
      const isGone = members.get(old.key) !== old && old.backsOffUntil > 0;
      if (isGone) this.board.count(old.slot, UpstreamCounter.backsOff, -1);
    }
    this.members = [...primaries, ...backups];
    this.backupsFrom = primaries.length;
    this.clientBackOffs.clear();
    this.scope.members = this.members;
    this.version = Number.NaN;
  }

  /** Whether it is one of the current upstreams. */
  has(upstream: Upstream): boolean {
    return this.members.includes(upstream);
  }

  /** Its service has ended: none of its upstreams backs off any more. */
  close(): void {
    this.replace([]);
  }

  /**
   * An upstream for connection `id` (not 0) from the address `client`, none of `tried`; undefined
   * when all have been tried, or none may be. One whose address has `family` bytes, if there is
   * such a one; 0: any. A backup only if no other can be had. With none left, and if the pool tries
   * then, the one that has been down or has backed off longest.
   */
  pick(
    client: Uint8Array,
    family: number,
    id: number,
    tried: readonly Upstream[],
    now: number,
  ): Upstream | undefined {
    if (this.version !== this.board.version) this.readBoard(now);
    else if (this.isRising) this.takeShares(now);
    let found = this.find(client, family, tried, now);
    if (found === undefined && family !== 0) found = this.find(client, 0, tried, now);
    if (found === undefined) return undefined;
    this.enter(found);
    this.board.count(found.slot, this.counters.begun, 1);
    if (found.backsOffUntil > 0 && found.backsOffUntil <= now && found.probe === 0) {
      found.probe = id;
    }
    return found;
  }

  /** A connection of `client` has been connected: the upstream works. */
  connected(upstream: Upstream, client: Uint8Array, now: number): void {
    upstream.failures = 0;
    upstream.ownFailures = 0;
    upstream.witnesses.clear();
    upstream.lastAnsweredAt = now;
    upstream.silentSince = Number.POSITIVE_INFINITY;
    this.clientBackOffs.connected(client, upstream);
    if (upstream.backsOffUntil === 0) return;
    upstream.backsOffUntil = 0;
    upstream.backOffMs = 0;
    upstream.probe = 0;
    this.board.count(upstream.slot, UpstreamCounter.backsOff, -1);
    if (upstream.slowStartMs > 0) {
      upstream.rampFrom = now;
      this.takeShares(now);
    }
    this.listener.recovered(upstream);
  }

  /**
   * Connection `id` could not be connected, and that is the upstream's doing. `client` is the one
   * in whose name that was tried; undefined: it was from an address of our own.
   */
  failed(
    upstream: Upstream,
    id: number,
    now: number,
    reason: string,
    client: Uint8Array | undefined,
  ): void {
    this.leave(upstream);
    this.note(upstream, id, now, reason, client);
  }

  /** The upstream of this address, for a connection that another process has begun; if any. */
  adopt({ address, port, scopeId }: SocketAddress): Upstream | undefined {
    const key = upstreamKey({ address, port, scopeId });
    const found = this.members.find((member) => member.key === key);
    if (found !== undefined) this.enter(found);
    return found;
  }

  /** Counts a connection that is not over after all. */
  enter(upstream: Upstream): void {
    upstream.active++;
    this.board.count(upstream.slot, this.counters.open, 1);
  }

  /** Counts an attempt to connect that failed. */
  countFailure({ slot }: Upstream, kind: ConnectFailure): void {
    this.board.count(slot, UpstreamCounter[kind], 1);
  }

  /** Counts bytes to an upstream and to a client. */
  carried({ slot }: Upstream, clientBytes: number, upstreamBytes: number): void {
    const { board } = this;
    if (clientBytes > 0) board.count(slot, UpstreamCounter.clientBytes, clientBytes);
    if (upstreamBytes > 0) board.count(slot, UpstreamCounter.upstreamBytes, upstreamBytes);
  }

  /**
   * Session `id` of `client`, begun at `since`, has had no answer for a while; it stays open. That
   * says something of the upstream if another one has answered since, and this one has not.
   */
  silent(upstream: Upstream, id: number, now: number, client: Uint8Array, since: number): void {
    if (upstream.lastAnsweredAt >= since) return;
    upstream.silentSince = Math.min(upstream.silentSince, since);
    const { silentSince } = upstream;
    const isOdd = this.members.some(
      (other) => other !== upstream && other.lastAnsweredAt >= silentSince,
    );
    if (isOdd) this.note(upstream, id, now, "no answer", client);
  }

  /** Connection `id` is over, connected or given up for a reason that is not the upstream's. */
  closed(upstream: Upstream, id: number): void {
    this.leave(upstream);
    if (upstream.probe === id) upstream.probe = 0;
  }

  /** Upstreams that went down since the last call. */
  takeFallen(now: number): readonly Upstream[] {
    if (this.version !== this.board.version) this.readBoard(now);
    const { fallen } = this;
    if (fallen.length > 0) this.fallen = [];
    return fallen;
  }

  private leave(upstream: Upstream): void {
    upstream.active--;
    this.board.count(upstream.slot, this.counters.open, -1);
  }

  private note(
    upstream: Upstream,
    id: number,
    now: number,
    reason: string,
    client: Uint8Array | undefined,
  ): void {
    const { failures, ms, msMax } = this.rules.backOff;
    upstream.failures++;
    upstream.lastFailedAt = now;
    this.listener.fails(upstream);
    const isProbe = upstream.probe === id;
    const backsOff = upstream.backsOffUntil > 0;
    if (client === undefined) upstream.ownFailures++;
    else this.bearWitness(upstream, client, now, reason);
    const evidence = upstream.ownFailures + upstream.witnesses.size;
    // A connection that began before the back-off, or for lack of others, is no news.
    if (backsOff ? !isProbe : evidence < failures) return;
    upstream.probe = 0;
    upstream.backOffMs = Math.min(Math.max(2 * upstream.backOffMs, ms), msMax);
    upstream.backsOffUntil = now + upstream.backOffMs;
    if (!backsOff) this.board.count(upstream.slot, UpstreamCounter.backsOff, 1);
    this.listener.backsOff(upstream, reason);
  }

  private bearWitness(upstream: Upstream, client: Uint8Array, now: number, reason: string): void {
    const { witnesses } = upstream;
    if (witnesses.size < this.rules.backOff.failures) witnesses.add(clientKey(client));
    const ms = this.clientBackOffs.failed(client, upstream, now);
    if (ms > 0) this.listener.backsOffFor(upstream, client, ms, reason);
  }

  private find(
    client: Uint8Array,
    family: number,
    tried: readonly Upstream[],
    now: number,
  ): Upstream | undefined {
    const { members, rules, backupsFrom, scope } = this;
    scope.family = family;
    scope.tried = tried;
    scope.now = now;
    scope.avoided = this.clientBackOffs.of(client);
    scope.source =
      rules.balance === "source-hash" ? clientSlot(client, hashedSlotCount, hashSeed) : 0;
    const choose = this.isEven ? chooseInTurn : chooseByShare;
    let best = choose(scope, 0, backupsFrom);
    if (best < 0 && backupsFrom < members.length) {
      best = choose(scope, backupsFrom, members.length);
    }
    if (best < 0) return rules.whenAllDown === "try" ? downLongest(scope) : undefined;
    scope.turn = best + 1;
    return members[best];
  }

  /** Takes over the states and weights of the board. */
  private readBoard(now: number): void {
    const { board } = this;
    this.version = board.version;
    for (const member of this.members) {
      const state = board.state(member.slot);
      if (isDown(state) && !isDown(member.state)) {
        member.downSince = now;
        this.fallen.push(member);
      }
      member.state = state;
      member.weight = board.weight(member.slot);
      member.rampFrom = Math.max(member.rampFrom, board.rampFrom(member.slot));
    }
    this.takeShares(now);
  }

  private takeShares(now: number): void {
    this.isEven = true;
    this.isRising = false;
    let even = 0;
    for (const member of this.members) {
      member.share = member.state === 0 ? shareAt(member, now) : 0;
      if (member.rampFrom + member.slowStartMs > now) this.isRising = true;
      if (member.share === 0) continue;
      if (even === 0) even = member.share;
      else if (member.share !== even) this.isEven = false;
    }
  }
}
