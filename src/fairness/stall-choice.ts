/**
 * Chooses which connections with stalled readers end while the kernel's memory for TCP is short.
 * The client with the most queued bytes pays first. Pure.
 */

import { stalledEndedMax, stalledPartMin } from "../engine/limits.ts";

/** A connection whose reader takes nothing. */
export interface Stalled {
  /** Its client, as a number. */
  readonly client: number;
  /** How many bytes of the kernel's memory its end would free. */
  readonly held: number;
  /** When it stalled, in ms. */
  readonly since: number;
}

interface Client<T> {
  held: number;
  /** Longest stall last. */
  readonly members: T[];
}

/**
 * Chooses the connections whose end frees `excess` bytes: each time the longest stalled one of the
 * client with the most queued bytes. Chooses none if all together hold only a small part of the
 * excess: then others cause it, and ending these would not help.
 */
export function chooseStalled<T extends Stalled>(stalled: readonly T[], excess: number): T[] {
  const total = stalled.reduce((sum, { held }) => sum + held, 0);
  if (total < excess * stalledPartMin) return [];
  const clients = clientsOf(stalled);
  const chosen: T[] = [];
  for (let left = excess; left > 0 && chosen.length < stalledEndedMax; ) {
    const heaviest = heaviestOf(clients);
    const member = heaviest?.members.pop();
    if (heaviest === undefined || member === undefined) break;
    heaviest.held -= member.held;
    left -= member.held;
    chosen.push(member);
  }
  return chosen;
}

function clientsOf<T extends Stalled>(stalled: readonly T[]): readonly Client<T>[] {
  const clients = new Map<number, Client<T>>();
  for (const member of stalled.toSorted((a, b) => b.since - a.since)) {
    const client = clients.get(member.client) ?? { held: 0, members: [] };
    clients.set(member.client, client);
    client.held += member.held;
    client.members.push(member);
  }
  return [...clients.values()];
}

/** The client with the most bytes; among equals, the one that has stalled for longest. */
function heaviestOf<T extends Stalled>(clients: readonly Client<T>[]): Client<T> | undefined {
  let heaviest: Client<T> | undefined;
  const since = ({ members }: Client<T>) => members.at(-1)?.since ?? Number.POSITIVE_INFINITY;
  for (const client of clients) {
    const isHeavier = heaviest === undefined || client.held > heaviest.held;
    const isAsHeavy = client.held === heaviest?.held && since(client) < since(heaviest);
    if (isHeavier || isAsHeavy) heaviest = client;
  }
  return heaviest;
}
