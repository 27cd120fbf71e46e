/**
 * What the main thread knows of the upstreams of one pool: their addresses, what an administrator
 * has asked for, and what checks have found. It writes their states to the board.
 */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Mark } from "../../../ffi/types.ts";
import type { Pool, PoolUpstream } from "../../config/pool.ts";
import { upstreamSyntax } from "../../config/syntax.ts";
import { shareAt } from "../../forward/upstream.ts";
import { formatBytes } from "../../net/address.ts";
import { formatUpstream } from "../../net/socket-address.ts";
import type { HealthTarget } from "../../workers/health-task.ts";
import type { PooledAddress, Upstreams } from "../../workers/protocol.ts";
import { type UpstreamBoard, UpstreamState } from "../../workers/upstream-board.ts";
import type { AddressStatus, PoolStatus, UpstreamStatus } from "../server/status.ts";
import type { HandedUpstream } from "./handed.ts";
import type { UpstreamSlots } from "./slots.ts";

/** The wish of an administrator: connections, no new ones, or none. */
export type AdminState = "ready" | "drain" | "down";

/** An address of an upstream. */
export interface AddressState {
  readonly address: SocketAddress;
  readonly slot: number;
  /** The result of checks, and why; it is up until one has failed. */
  isUp: boolean;
  reason: string;
  /** Since when it is so, in ms since 1970. */
  since: number;
}

/** The facts that decide whether an address gets new connections, and how many. */
export interface Standing {
  /** Where its counters are on the board; negative: nowhere. */
  readonly slot: number;
  /** Bits of `UpstreamState`. */
  readonly state: number;
  /** Its share of this moment: less than its weight while it starts slowly. */
  readonly weight: number;
  /** Its share still rises. */
  readonly isRising: boolean;
  /** Since when checks find it down, by `performance.now()`; -Infinity: they do not. */
  readonly downSince: number;
}

/** An upstream, and its addresses by their text. */
export interface Entry {
  readonly settings: PoolUpstream;
  admin: AdminState;
  /** The value of an administrator; undefined: that of the configuration. */
  weight: number | undefined;
  since: number;
  addresses: Map<string, AddressState>;
}

/** Where the addresses of a pool's upstreams come from. */
export interface AddressSource {
  addressesOf(index: number): readonly SocketAddress[];
  /** SO_MARK of our own sockets towards them. */
  readonly mark: Mark | undefined;
}

export class PoolStates {
  readonly pool: Pool;
  private readonly source: AddressSource;
  private readonly slots: UpstreamSlots;
  readonly entries: readonly Entry[];
  /** Another number once the addresses of upstreams are others. */
  revision = 0;
  private readonly now: () => number;
  private isStarted = false;
  /** Addresses for which there is no slot. */
  left = 0;

  /**
   * `before` are the states of a pool with the same name, or what another process has handed over
   * of it: what was asked for and found of an upstream stays, unless its own entry in the
   * configuration is another one now.
   */
  constructor(
    pool: Pool,
    source: AddressSource,
    slots: UpstreamSlots,
    before?: PoolStates | readonly HandedUpstream[],
    now: () => number = Date.now,
  ) {
    this.pool = pool;
    this.source = source;
    this.slots = slots;
    this.now = now;
    this.isStarted = before instanceof PoolStates || (before?.length ?? 0) > 0;
    const known = new Map<string, Known>();
    if (before instanceof PoolStates) {
      for (const each of before.entries) {
        known.set(each.settings.name, { ...each, entry: entryText(each.settings) });
      }
    } else for (const each of before ?? []) known.set(each.upstream, this.takeHanded(each));
    this.entries = pool.upstreams.map((settings): Entry => {
      const old = known.get(settings.name);
      const isSame = old?.entry === entryText(settings);
      const { admin, weight, since } = isSame ? old : { ...fresh, since: now() };
      return { settings, admin, weight, since, addresses: old?.addresses ?? new Map() };
    });
    for (const [name, { addresses }] of known) {
      if (pool.upstreams.some((each) => each.name === name)) continue;
      for (const key of addresses.keys()) slots.release(this.keyOf(name, key));
    }
    this.refresh();
  }

  /** The states for a process that takes over. */
  handOver(): HandedUpstream[] {
    const { board } = this.slots;
    return this.entries.map(({ settings, admin, weight, since, addresses }) => ({
      ...{
        pool: this.pool.name,
        upstream: settings.name,
        entry: entryText(settings),
        admin,
        since,
      },
      ...(weight === undefined ? {} : { weight }),
      addresses: [...addresses].map(([address, { slot, isUp, reason, since }]) => ({
        ...{ address, isUp, reason, since },
        counters: board.counters(slot),
        checks: board.checkCounts(slot),
      })),
    }));
  }

  private takeHanded({ addresses, ...rest }: HandedUpstream): Known {
    const { board } = this.slots;
    const states = addresses.map(({ address, counters, checks, ...state }) => {
      const slot = this.slots.take(this.keyOf(rest.upstream, address));
      if (slot >= 0) board.inherit(slot, counters, checks);
      // Where it is comes with the first look at the addresses.
      return [address, { ...state, address: nowhere, slot }] as const;
    });
    return { ...rest, weight: rest.weight, addresses: new Map(states) };
  }

  /** Takes over the addresses of this moment. */
  refresh(): void {
    this.left = 0;
    this.revision++;
    for (const [i, entry] of this.entries.entries()) {
      const { settings } = entry;
      const before = entry.addresses;
      entry.addresses = new Map();
      for (const address of this.source.addressesOf(i)) {
        const key = formatUpstream(address);
        const slot = this.slots.take(this.keyOf(settings.name, key));
        if (slot < 0) {
          this.left++;
          continue;
        }
        const old = before.get(key);
        const isKnown = old !== undefined && (old.isUp || this.pool.check !== undefined);
        const state = isKnown
          ? { ...old, address, slot }
          : { address, slot, isUp: true, reason: "", since: this.now() };
        entry.addresses.set(key, state);
        this.write(entry, state);
        if (old === undefined && this.isStarted) this.slots.board.ramp(slot);
      }
      for (const key of before.keys()) {
        if (!entry.addresses.has(key)) this.slots.release(this.keyOf(settings.name, key));
      }
    }
    this.isStarted = true;
  }

  get board(): UpstreamBoard {
    return this.slots.board;
  }

  /** Ends it: the slots may be given to others. */
  release(): void {
    for (const { settings, addresses } of this.entries) {
      for (const key of addresses.keys()) this.slots.release(this.keyOf(settings.name, key));
    }
  }

  /** The addresses that Workers choose among. */
  get upstreams(): Upstreams {
    if (this.pool.upstreams.some(({ to }) => to === "original")) return { kind: "original" };
    const addresses = this.entries.flatMap(({ settings, addresses }): PooledAddress[] => {
      const { isBackup, slowStartMs } = settings;
      return [...addresses.values()].map(({ address, slot }) => ({
        ...{ address, slot, isBackup, slowStartMs },
      }));
    });
    return { kind: "fixed", addresses, board: this.slots.board.memory };
  }

  /** The targets of checks. */
  get targets(): readonly HealthTarget[] {
    const { check } = this.pool;
    if (check === undefined) return [];
    const { mark } = this.source;
    return this.entries.flatMap(({ settings: { to }, addresses }) =>
      [...addresses.values()].map(({ address, slot }): HealthTarget => {
        const isNamed = to !== "original" && typeof to.host === "string";
        const host = isNamed ? to.host : hostText(address);
        const port = check.port ?? address.port;
        return { slot, address: { ...address, port }, host, mark, check };
      }),
    );
  }

  /** The standing of an address; undefined: the upstream has no such address. */
  standingOf(name: string, address: SocketAddress, now: number): Standing | undefined {
    const entry = this.entries.find(({ settings }) => settings.name === name);
    const known = entry?.addresses.get(formatUpstream(address));
    if (entry === undefined || known === undefined) return undefined;
    const { slot, isUp, since } = known;
    const { board } = this.slots;
    const { slowStartMs } = entry.settings;
    const rampFrom = board.rampFrom(slot);
    return {
      ...{ slot, state: board.state(slot) },
      weight: shareAt({ weight: board.weight(slot), rampFrom, slowStartMs }, now),
      isRising: now < rampFrom + slowStartMs,
      downSince: isUp ? Number.NEGATIVE_INFINITY : since - performance.timeOrigin,
    };
  }

  /** The slot of an address of an upstream; undefined: it has no such address. */
  slotOf(name: string, address: string): number | undefined {
    return this.entries.find(({ settings }) => settings.name === name)?.addresses.get(address)
      ?.slot;
  }

  /** How many upstreams there are. */
  get size(): number {
    return this.entries.length;
  }

  /** How many upstreams take connections. */
  get taking(): number {
    return this.entries.filter(takes).length;
  }

  has(name: string): boolean {
    return this.entries.some(({ settings }) => settings.name === name);
  }

  /** Whether nobody could connect any more, if an upstream took no connections. */
  isLast(name: string): boolean {
    const [only, another] = this.entries.filter(takes);
    return only?.settings.name === name && another === undefined;
  }

  /** An administrator asks for a state, a weight, or both. */
  ask(name: string, asked: { readonly state?: AdminState; readonly weight?: number }): void {
    const entry = this.entryOf(name);
    if (asked.weight !== undefined) entry.weight = asked.weight;
    if (asked.state !== undefined && asked.state !== entry.admin) {
      const isBack = asked.state === "ready" && entry.admin === "down";
      entry.admin = asked.state;
      entry.since = this.now();
      if (isBack) for (const { slot } of entry.addresses.values()) this.slots.board.ramp(slot);
    }
    for (const state of entry.addresses.values()) this.write(entry, state);
  }

  /** A check has found an address up or down. Returns how long it was not, in ms. */
  found(slot: number, isUp: boolean, reason: string): Found | undefined {
    for (const entry of this.entries) {
      for (const [text, state] of entry.addresses) {
        if (state.slot !== slot || state.isUp === isUp) continue;
        const lasted = this.now() - state.since;
        state.isUp = isUp;
        state.reason = isUp ? "" : reason;
        state.since = this.now();
        if (isUp) this.slots.board.ramp(slot);
        this.write(entry, state);
        return { upstream: entry.settings.name, address: text, lasted };
      }
    }
    return undefined;
  }

  status(): PoolStatus {
    return {
      name: this.pool.name,
      balance: this.pool.balance,
      check: this.pool.check?.probe.type,
      upstreams: this.entries.map((entry) => this.upstreamStatus(entry)),
    };
  }

  upstreamOf(name: string): UpstreamStatus {
    return this.upstreamStatus(this.entryOf(name));
  }

  private upstreamStatus(entry: Entry): UpstreamStatus {
    const { settings, admin, weight, addresses } = entry;
    const { state, reason, since } = stateOf(entry);
    const backsOff = state === "up" ? this.backsOffText(entry) : "";
    const isOriginal = settings.to === "original";
    return {
      name: settings.name,
      ...{ state, reason: reason || backsOff, since, admin },
      weight: weight ?? settings.weight,
      isBackup: settings.isBackup,
      addresses: isOriginal
        ? []
        : [...addresses].map(([text, each]) => this.addressStatus(text, each)),
    };
  }

  /** Each Worker backs off by itself. */
  private backsOffText({ addresses }: Entry): string {
    const { board } = this.slots;
    const counts = [...addresses.values()].map(({ slot }) => board.counters(slot).backsOff);
    const most = Math.max(0, ...counts);
    return most === 0 ? "" : `backs off in ${most} of ${board.workers} workers`;
  }

  private addressStatus(address: string, state: AddressState): AddressStatus {
    const { board } = this.slots;
    const { slot, isUp, reason, since } = state;
    const { check } = this.pool;
    const counters = board.counters(slot);
    return { address, isUp, reason, since, counters, check: check && board.checkCounts(slot) };
  }

  private write(entry: Entry, { slot, isUp }: AddressState): void {
    const admin = { ready: 0, drain: UpstreamState.drained, down: UpstreamState.adminDown };
    const state = admin[entry.admin] | (isUp ? 0 : UpstreamState.checkDown);
    const weight = entry.weight ?? entry.settings.weight;
    const { board } = this.slots;
    if (board.state(slot) === state && board.weight(slot) === weight) return;
    board.set(slot, state, weight);
  }

  private entryOf(name: string): Entry {
    return this.entries.find(({ settings }) => settings.name === name) as Entry;
  }

  private keyOf(upstream: string, address: string): string {
    return `${this.pool.name}/${upstream}/${address}`;
  }
}

/** A change that a check has found. */
export interface Found {
  readonly upstream: string;
  readonly address: string;
  /** How long it was in the state before, in ms. */
  readonly lasted: number;
}

/** The earlier state of an upstream, and its entry of the configuration. */
interface Known extends Omit<Entry, "settings"> {
  readonly entry: string;
}

const fresh = { admin: "ready", weight: undefined } as const;

const nowhere: SocketAddress = { address: new Uint8Array(4), port: 0, scopeId: 0 };

/** The text of an entry of the configuration, to compare it with another. */
function entryText({ to, ...rest }: PoolUpstream): string {
  return JSON.stringify({ ...rest, to: upstreamSyntax.format(to) });
}

/** Whether an upstream may get connections. */
function takes(entry: Entry): boolean {
  return stateOf(entry).state === "up";
}

/** An address as HTTP names a host (RFC 3986, 3.2.2). */
function hostText({ address }: SocketAddress): string {
  return address.length === 4 ? formatBytes(address) : `[${formatBytes(address)}]`;
}

function stateOf(entry: Entry): Pick<UpstreamStatus, "state" | "reason" | "since"> {
  const { admin, weight, settings, addresses, since } = entry;
  if (admin === "down") return { state: "down", reason: "taken down", since };
  if (admin === "drain") return { state: "drained", reason: "drained", since };
  if ((weight ?? settings.weight) === 0) return { state: "drained", reason: "weight 0", since };
  if (settings.to === "original") return { state: "up", reason: "", since };
  const all = [...addresses.values()];
  if (all.length === 0) return { state: "down", reason: "no address", since };
  const down = all.filter(({ isUp }) => !isUp);
  const [first] = down;
  if (first === undefined) {
    return { state: "up", reason: "", since: Math.max(since, ...all.map((each) => each.since)) };
  }
  if (down.length === all.length) {
    const last = Math.max(...down.map((each) => each.since));
    return { state: "down", reason: first.reason, since: last };
  }
  const reason = `${down.length} of ${all.length} addresses: ${first.reason}`;
  return { state: "up", reason, since };
}
