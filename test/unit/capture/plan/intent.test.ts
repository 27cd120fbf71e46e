import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Intent, parseIntent } from "../../../../src/capture/plan/intent.ts";
import { planLine } from "../../../../src/cli/words/plan.ts";
import { parseCidr } from "../../../../src/net/cidr.ts";

function cidr(text: string) {
  const result = parseCidr(text);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function intent(request: unknown): Intent {
  const result = parseIntent(request);
  if (!result.ok) throw new Error(planLine(result.issue));
  return result.value;
}

function error(request: unknown): string {
  const result = parseIntent(request);
  return result.ok ? "accepted" : planLine(result.issue);
}

describe("what a request leaves open", () => {
  test("with nothing given it is the seed's intent", () => {
    expect(intent({})).toEqual({
      seed: true,
      captures: true,
      families: [4],
      protocols: ["tcp"],
      destinations: [cidr("8.8.8.8")],
      sources: [],
      ports: [],
      interfaces: ["lo"],
      mark: { value: 1, mask: 1 },
      table: 100,
      priority: undefined,
      tag: undefined,
      toPort: undefined,
      bypass: [],
      local: false,
      guards: { mark: undefined, uids: [], gids: [], cgroups: [] },
      replyPath: false,
      toAddresses: [],
      redirect: false,
      backends: [],
      tableName: "tproxyd",
      sysctl: false,
    } as unknown as Intent);
    expect(intent({ table: undefined }).seed).toBe(true);
  });

  test("how packets are handled does not change what is captured", () => {
    for (const how of [
      { mark: { value: 2, mask: 2 } },
      { table: 200 },
      { priority: 7 },
      { toPort: 50080 },
    ]) {
      const { seed, destinations, interfaces, families } = intent(how);
      expect({ seed, destinations, interfaces, families }).toEqual({
        seed: false,
        destinations: [cidr("8.8.8.8")],
        interfaces: ["lo"],
        families: [4],
      });
    }
  });

  test("anything about what is captured replaces all that the seed captures", () => {
    for (const what of [
      { sources: [cidr("192.0.2.0/24")] },
      { ports: [{ from: 80, to: 80 }] },
      { interfaces: ["eth0"] },
      { protocols: ["udp"] },
      { families: [4] },
    ]) {
      const { seed, destinations, interfaces } = intent(what);
      expect({ seed, destinations }).toEqual({ seed: false, destinations: [] });
      expect(interfaces).toEqual("interfaces" in what ? ["eth0"] : []);
    }
  });

  test("ip rules get a priority and, like routes, a tag", () => {
    expect(intent({ table: 200 })).toMatchObject({ priority: 100, tag: 116 });
    expect(intent({ priority: 9 })).toMatchObject({ priority: 9, table: 100 });
  });

  test("families follow from the addresses, and are both without any", () => {
    expect(intent({ destinations: [cidr("1.1.1.1")] }).families).toEqual([4]);
    expect(intent({ sources: [cidr("::1")] }).families).toEqual([6]);
    expect(intent({ destinations: [cidr("::1"), cidr("1.1.1.1")] }).families).toEqual([4, 6]);
    expect(intent({ ports: [{ from: 53, to: 53 }] }).families).toEqual([4, 6]);
  });

  test("what is named twice counts once", () => {
    const { protocols, interfaces } = intent({
      protocols: ["udp", "tcp", "udp"],
      interfaces: ["a", "b", "a"],
    });
    expect({ protocols, interfaces }).toEqual({
      protocols: ["udp", "tcp"],
      interfaces: ["a", "b"],
    });
  });
});

describe("what contradicts itself is refused", () => {
  const cases: [what: string, request: unknown, message: string][] = [
    [
      "an address of another family",
      { families: [4], destinations: [cidr("2001:db8::/32")] },
      'destination "2001:db8::/32" is IPv6, but the family is 4: give an IPv4 one',
    ],
    [
      "a family without an address where the other has one",
      { families: [4, 6], destinations: [cidr("8.8.8.8")] },
      'destination "8.8.8.8" says nothing about IPv6: add an IPv6 destination ("::/0" for every',
    ],
    [
      "sources of one family beside destinations of both",
      { destinations: [cidr("8.8.8.8"), cidr("::1")], sources: [cidr("::2")] },
      'source "::2" says nothing about IPv4: add an IPv4 source ("0.0.0.0/0" for every one)',
    ],
    ["a mark of 0", { mark: { value: 0, mask: 1 } }, 'mark: "0x0/0x1" marks nothing'],
    ["a mark outside its mask", { mark: { value: 2, mask: 1 } }, 'mark: "0x2/0x1" marks nothing'],
    ["the table local", { table: 255 }, 'table: "255" is a table of the system'],
    ["the table main", { table: 254 }, 'table: "254" is a table of the system'],
    ["the table default", { table: 253 }, 'table: "253" is a table of the system'],
    ["the table 0", { table: 0 }, 'table: "0" is not a routing table: give a number from 1 to'],
    ["a table beyond 32 bits", { table: 2 ** 32 }, 'table: "4294967296" is not a routing table'],
    ["a priority after the table main", { priority: 32766 }, "give a number from 1 to 32765"],
    ["priority 0, which is the table local's", { priority: 0 }, "give a number from 1 to 32765"],
    ["port 0", { toPort: 0 }, 'toPort: "0" is not a port'],
    ["a port of half", { toPort: 80.5 }, 'toPort: "80.5" is not a port'],
    ["a reversed range", { ports: [{ from: 2, to: 1 }] }, "ports.0: a range of ports ends before"],
    ["an empty list", { interfaces: [] }, "interfaces: the list of interfaces is empty"],
    ["a protocol without ports", { protocols: ["icmp"] }, "protocols.0: a protocol is tcp or udp"],
    ["a family of none", { families: [5] }, "families.0: a family is 4 or 6"],
    ["an unknown field", { dst: "8.8.8.8" }, "dst: "],
    ["no object", null, "Expected Object but received null"],
    [
      "host bits",
      { destinations: [{ family: 4, bytes: Uint8Array.of(10, 0, 0, 1), prefix: 8 }] },
      "destinations.0: not a network",
    ],
    ["addresses as text", { destinations: ["8.8.8.8; reboot"] }, "destinations.0: not a network"],
    [
      "long lists",
      { interfaces: Array(1001).fill("lo") },
      "too many interfaces: give at most 1000",
    ],
    [
      "a product of lists that makes too many rules",
      {
        destinations: Array.from({ length: 64 }, (_, i) => cidr(`10.0.${i}.0/24`)),
        sources: Array.from({ length: 64 }, (_, i) => cidr(`10.1.${i}.0/24`)),
        interfaces: ["a", "b", "c"],
      },
      "12288 combinations of destination, source, port and interface are too many",
    ],
  ];
  test.each(cases)("%s", (_, request, message) => expect(error(request)).toContain(message));

  test("names of interfaces that a shell or nft would read", () => {
    for (const name of ["$(id)", "a b", "a;b", "a/b", "-A", 'a"b', "a\n", "0123456789abcdef", ""]) {
      expect(error({ interfaces: [name] })).toContain("is not an interface's name");
    }
  });
});

test("no request makes it throw", () => {
  const field = fc.constantFrom(
    ...["destinations", "sources", "ports", "interfaces", "protocols", "families"],
    ...["mark", "table", "priority", "toPort", "other"],
  );
  fc.assert(
    fc.property(fc.oneof(fc.anything(), fc.dictionary(field, fc.anything())), (request) => {
      const result = parseIntent(request);
      if (!result.ok) expect(planLine(result.issue)).not.toContain("\n");
    }),
    { numRuns: 1000 },
  );
});
