import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatSocketAddress } from "../../../src/net/socket-address.ts";
import { type End, endReasonList } from "../../../src/workers/end-reason.ts";
import {
  type Recorded,
  type RecordKind,
  RecordWriter,
  withRecords,
} from "../../../src/workers/records.ts";

const socket = fc.oneof(
  fc.record({
    address: fc.uint8Array({ minLength: 4, maxLength: 4 }),
    port: fc.nat(65535),
    scopeId: fc.constant(0),
  }),
  fc.record({
    address: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    port: fc.nat(65535),
    scopeId: fc.nat(0xffffffff),
  }),
);

const end: fc.Arbitrary<End> = fc.record({
  reason: fc.constantFrom(...endReasonList),
  by: fc.constantFrom("client", "upstream", "proxy"),
  failure: fc.option(fc.record({ call: fc.string(), errno: fc.integer({ min: 1, max: 4095 }) }), {
    nil: undefined,
  }),
  detail: fc.string(),
});

const connection: fc.Arbitrary<Recorded> = fc.record({
  protocol: fc.constantFrom("tcp", "udp"),
  id: fc.maxSafeNat(),
  client: socket,
  original: socket,
  upstream: fc.option(socket, { nil: undefined }),
  source: fc.constantFrom("", "client", "self"),
  phase: fc.constantFrom("header", "relaying"),
  sent: fc.maxSafeNat(),
  received: fc.maxSafeNat(),
  sentDatagrams: fc.maxSafeNat(),
  receivedDatagrams: fc.maxSafeNat(),
  connectMs: fc.constantFrom(-1, 0, 0.5, 1200),
  retries: fc.nat(65535),
  startedAt: fc.nat(1000),
  lastActive: fc.nat(1000),
  end: fc.option(end, { nil: undefined }),
});

const kind: fc.Arbitrary<RecordKind> = fc.constantFrom(
  ...(["accepted", "reached", "forwarded", "refused", "open"] as const),
);

test("every field of every record arrives, whatever was in its place before", () => {
  const writer = new RecordWriter(8);
  fc.assert(
    fc.property(fc.array(fc.tuple(kind, connection), { maxLength: 8 }), (told) => {
      for (const [what, one] of told) writer.add(what, one, 2000, 1e12);
      const events = withRecords([writer.take()], { worker: 3, generation: 4 });
      expect(events).toEqual(
        told.map(([what, one]) => ({
          kind: what,
          worker: 3,
          protocol: one.protocol,
          id: `3.${one.id}.4`,
          time: 1e12,
          state: one.phase,
          client: formatSocketAddress(one.client),
          local: formatSocketAddress(one.original),
          upstream: one.upstream && formatSocketAddress(one.upstream),
          source: one.source,
          ...(one.connectMs < 0 ? {} : { connectMs: one.connectMs }),
          ...(one.retries === 0 ? {} : { retries: one.retries }),
          clientBytes: one.sent,
          upstreamBytes: one.received,
          clientDatagrams: one.sentDatagrams,
          upstreamDatagrams: one.receivedDatagrams,
          ms: 2000 - one.startedAt,
          idleMs: 2000 - one.lastActive,
          end: one.end,
        })),
      );
      expect(writer.length).toBe(0);
    }),
  );
});

test("records stand among the other events where they were told", () => {
  const writer = new RecordWriter(2);
  const [one] = fc.sample(connection, 1) as [Recorded];
  writer.add("accepted", one, 0, 0);
  const first = writer.take();
  writer.add("forwarded", one, 0, 0);
  const events = withRecords([first, { kind: "warning", text: "" }, writer.take()], {
    worker: 1,
    generation: 1,
  });
  expect(events.map((event) => event.kind)).toEqual(["accepted", "warning", "forwarded"]);
});
