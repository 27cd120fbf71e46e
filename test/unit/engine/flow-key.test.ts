import { expect, test } from "bun:test";
import fc from "fast-check";
import { encodeSockaddr, mapped, type SocketAddress } from "../../../ffi/sockaddr.ts";
import {
  clientOfKey,
  KEY_WORDS,
  originalOfKey,
  readEnds,
  readKey,
  writeEnds,
} from "../../../src/engine/flow-key.ts";

const port = fc.integer({ min: 0, max: 65_535 });
const v4 = fc.uint8Array({ minLength: 4, maxLength: 4 });
const v6 = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .map((bytes) => Uint8Array.from(bytes, (byte, i) => (i === 0 ? 0x20 : byte)));
const linkLocal = v6.map((bytes) =>
  Uint8Array.of(0xfe, 0x80 | ((bytes[1] ?? 0) >> 2), ...bytes.slice(2)),
);
const scope = fc.integer({ min: 0, max: 1000 });
const v4Socket = fc.record({ address: v4, port, scopeId: fc.constant(0) });
// Only a link-local address has an interface.
const v6Socket = fc.oneof(
  fc.record({ address: v6, port, scopeId: fc.constant(0) }),
  fc.record({ address: linkLocal, port, scopeId: scope }),
);

/** What the kernel writes of a socket address, at word `at`. */
function written(socket: SocketAddress, at: number): Uint32Array {
  const view = new DataView(new ArrayBuffer(at * 4 + 32));
  encodeSockaddr(view, at * 4, socket.address, socket.port, socket.scopeId);
  return new Uint32Array(view.buffer);
}

function keyOf(client: SocketAddress, original: SocketAddress, at = 0): Uint32Array {
  const key = new Uint32Array(KEY_WORDS).fill(7);
  expect(readKey(written(client, at), at, written(original, at), at, key)).toBe(true);
  return key;
}

test("both ends are read back from the key", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.tuple(v4Socket, v4Socket), fc.tuple(v6Socket, v6Socket)),
      fc.integer({ min: 0, max: 9 }),
      ([client, original], at) => {
        const key = keyOf(client, original, at);
        expect(clientOfKey(key)).toEqual(client);
        // The interface is the client's, for both are on one link if both are link-local.
        const isLocal = original.address[0] === 0xfe;
        expect(originalOfKey(key)).toEqual({
          ...original,
          scopeId: isLocal && client.address.length === 16 ? client.scopeId : 0,
        });
      },
    ),
  );
});

test("an IPv4 client has one key, whichever socket has received its datagram", () => {
  fc.assert(
    fc.property(v4Socket, v4Socket, (client, original) => {
      const asV6 = { ...client, address: mapped(client.address) };
      expect(keyOf(asV6, original)).toEqual(keyOf(client, original));
    }),
  );
});

test("two sessions have two keys", () => {
  fc.assert(
    fc.property(v4Socket, v4Socket, v4Socket, (client, original, other) => {
      fc.pre(other.port !== original.port || other.address.join() !== original.address.join());
      expect(keyOf(client, original)).not.toEqual(keyOf(client, other));
      expect(keyOf(original, client)).not.toEqual(keyOf(other, client));
    }),
  );
});

test("ends that a header says have the key that they would have as the datagram's own", () => {
  const ofOneFamily = fc.oneof(fc.tuple(v4Socket, v4Socket), fc.tuple(v6Socket, v6Socket));
  fc.assert(
    fc.property(ofOneFamily, fc.integer({ min: 0, max: 9 }), ([one, other], at) => {
      const [client, original] = [one, other].map((end) => ({ ...end, scopeId: 0 }));
      if (client === undefined || original === undefined) return;
      const key = new Uint32Array(KEY_WORDS).fill(7);
      writeEnds(client, original, key);
      expect([...key]).toEqual([...keyOf(client, original)]);
      // As in a header of version 2: both addresses, both ports.
      const size = client.address.length as 4 | 16;
      const view = new DataView(new ArrayBuffer(at * 4 + 2 * size + 4));
      const bytes = new Uint8Array(view.buffer, at * 4);
      bytes.set(client.address);
      bytes.set(original.address, size);
      view.setUint16(at * 4 + 2 * size, client.port);
      view.setUint16(at * 4 + 2 * size + 2, original.port);
      key.fill(7);
      readEnds(new Uint32Array(view.buffer), at, size, key);
      expect([...key]).toEqual([...keyOf(client, original)]);
    }),
  );
});

test("what is no IP address has no key", () => {
  const words = new Uint32Array(8);
  const socket = { address: Uint8Array.of(1, 2, 3, 4), port: 1, scopeId: 0 };
  const key = new Uint32Array(KEY_WORDS);
  expect(readKey(words, 0, written(socket, 0), 0, key)).toBe(false);
  expect(readKey(written(socket, 0), 0, words, 0, key)).toBe(false);
});
