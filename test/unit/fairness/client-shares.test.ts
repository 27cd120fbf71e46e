import { expect, test } from "bun:test";
import { PREFIX_WORDS, writePrefix } from "../../../src/engine/client-prefix.ts";
import { ClientCounts } from "../../../src/fairness/client-counts.ts";
import { ClientRates } from "../../../src/fairness/client-rates.ts";
import { ClientShares } from "../../../src/fairness/client-shares.ts";
import { formatBytes, parseAddress } from "../../../src/net/address.ts";
import { generator } from "../../helpers/random.ts";

const prefixOf = (text: string, scopeId = 0) => {
  const parsed = parseAddress(text);
  if (!parsed.ok) throw new Error(text);
  const prefix = new Uint32Array(PREFIX_WORDS);
  writePrefix({ address: parsed.value.bytes, port: 0, scopeId }, prefix);
  return prefix;
};

test("a client is an IPv4 address, or the /64 of an IPv6 one on its link", () => {
  expect(prefixOf("192.0.2.1")).not.toEqual(prefixOf("192.0.2.2"));
  expect(prefixOf("2001:db8::1")).toEqual(prefixOf("2001:db8::ffff:1:2:3"));
  expect(prefixOf("2001:db8::1")).not.toEqual(prefixOf("2001:db8:0:1::1"));
  expect(prefixOf("fe80::1", 2)).not.toEqual(prefixOf("fe80::1", 3));
  // The words of an IPv4 address are not those of an IPv6 one.
  expect(prefixOf("32.1.13.184")).not.toEqual(prefixOf("2001:db8::"));
  expect(formatBytes(Uint8Array.of(32, 1, 13, 184))).toBe("32.1.13.184");
});

test("shares are those of a Map, whatever comes and goes", () => {
  const seed = Math.floor(Math.random() * 0xffffffff);
  const random = generator(seed);
  const capacity = 60;
  const shares = new ClientShares(capacity, () => random(0xffffffff));
  const model = new Map<number, string[]>();
  const clientOf = new Map<string, number>();
  const prefix = (client: number) => Uint32Array.of(client, 0, 7);
  const free = Array.from({ length: capacity }, (_, member) => member);
  for (let step = 0; step < 20_000; step++) {
    const all = [...clientOf.keys()];
    const kind = random(5);
    if (kind < 2 && free.length > 0) {
      const [member] = free.splice(random(free.length), 1) as [number];
      const client = random(8);
      shares.add(member, prefix(client));
      model.set(client, [...(model.get(client) ?? []), String(member)]);
      clientOf.set(String(member), client);
    } else if (all.length > 0) {
      const member = all[random(all.length)] as string;
      const client = clientOf.get(member) as number;
      const others = (model.get(client) ?? []).filter((each) => each !== member);
      if (kind === 2) {
        shares.renew(Number(member));
        model.set(client, [...others, member]);
      } else {
        shares.remove(Number(member));
        clientOf.delete(member);
        free.push(Number(member));
        if (others.length > 0) model.set(client, others);
        else model.delete(client);
      }
    }
    const most = Math.max(0, ...[...model.values()].map(({ length }) => length));
    const heaviest: string[] = [];
    if (most > 0) {
      let member = shares.first(shares.heaviest);
      for (; member >= 0; member = shares.after(member)) heaviest.push(String(member));
    }
    const found = {
      seed,
      size: shares.size,
      clients: shares.clientCount,
      most: shares.heaviestCount,
      counts: Array.from({ length: 8 }, (_, client) => shares.countOf(prefix(client))),
      heaviest,
    };
    const isRight = [...model.values()].some((members) => members.join() === heaviest.join());
    expect(found).toEqual({
      seed,
      size: clientOf.size,
      clients: model.size,
      most,
      counts: Array.from({ length: 8 }, (_, client) => model.get(client)?.length ?? 0),
      heaviest: most === 0 || (isRight && heaviest.length === most) ? heaviest : [],
    });
  }
});

test("what all Workers have of a client is the sum of theirs, and goes with a Worker", () => {
  const random = generator(7);
  const memory = ClientCounts.memory(3, () => random(0xffffffff));
  const views = [0, 1, 2].map((worker) => new ClientCounts(memory, 3, worker));
  const [one, two, three] = views as [ClientCounts, ClientCounts, ClientCounts];
  const [client, other] = [prefixOf("192.0.2.1"), prefixOf("192.0.2.2")];
  for (const view of views) for (let i = 0; i < 5; i++) view.change(client, 1);
  one.change(client, -1);
  expect(two.of(client)).toBe(14);
  expect(two.of(other)).toBe(0);
  // Another Worker takes the place of one that has died.
  new ClientCounts(memory, 3, 1);
  expect(three.of(client)).toBe(9);
});

test("thousands of clients do not weigh on another", () => {
  const random = generator(11);
  const memory = ClientCounts.memory(1, () => random(0xffffffff));
  const counts = new ClientCounts(memory, 1, 0);
  const client = (i: number) => Uint32Array.of(0x0a000000 + i, 0, 0xffffffff);
  for (let i = 0; i < 4_000; i++) counts.change(client(i), 1);
  let tooMany = 0;
  for (let i = 0; i < 4_000; i++) if (counts.of(client(i)) > 1) tooMany++;
  expect(tooMany).toBeLessThan(600);
});

test("a rate: a burst of one second, then as many as the time that passes allows", () => {
  const random = generator(3);
  const rates = new ClientRates(10, () => random(0xffffffff));
  const [client, other] = [prefixOf("192.0.2.1"), prefixOf("192.0.2.2")];
  const taken = (prefix: Uint32Array, now: number, tries: number) => {
    let count = 0;
    for (let i = 0; i < tries; i++) if (rates.take(prefix, now)) count++;
    return count;
  };
  expect(taken(client, 1_000, 50)).toBe(10);
  expect(taken(other, 1_000, 1)).toBe(1);
  expect(taken(client, 1_500, 50)).toBe(5);
  expect(taken(client, 1_510, 50)).toBe(0);
  expect(taken(client, 60_000, 50)).toBe(10);
  // A clock that goes back gives nothing away.
  expect(taken(client, 59_000, 50)).toBe(0);
});

test("a client with the prefix of an unused place, ::/64, has a full burst, too", () => {
  const rates = new ClientRates(10, () => 9);
  const client = prefixOf("::1");
  let taken = 0;
  while (rates.take(client, 100)) taken++;
  expect(taken).toBe(10);
});

test("a rate that is less than one in a second", () => {
  const rates = new ClientRates(0.5, () => 9);
  const client = prefixOf("192.0.2.1");
  expect(rates.take(client, 5_000)).toBe(true);
  expect(rates.take(client, 6_000)).toBe(false);
  expect(rates.take(client, 7_000)).toBe(true);
});
