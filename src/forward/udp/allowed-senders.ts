/**
 * The networks whose hosts may send headers of the PROXY protocol, as words of a session's key.
 * Checked for every datagram, so nothing is allocated. Pure.
 */

import { mapped } from "../../../ffi/sockaddr.ts";
import { isMappedKey } from "../../engine/flow-key.ts";
import type { Cidr } from "../../net/cidr.ts";

interface Network {
  readonly isV4: boolean;
  readonly words: Uint32Array;
  readonly masks: Uint32Array;
}

export class AllowedSenders {
  private readonly networks: readonly Network[];

  /** Without any network every sender is allowed. */
  constructor(networks: readonly Cidr[]) {
    this.networks = networks.map(networkOf);
  }

  /** Returns whether the first address of `key` is in one of the networks. */
  has(key: Uint32Array): boolean {
    if (this.networks.length === 0) return true;
    const isV4 = isMappedKey(key, 0);
    for (const network of this.networks)
      if (network.isV4 === isV4 && holds(network, key)) return true;
    return false;
  }
}

function holds({ words, masks }: Network, key: Uint32Array): boolean {
  for (let i = 0; i < 4; i++) {
    if (((key[i] as number) & (masks[i] as number)) >>> 0 !== words[i]) return false;
  }
  return true;
}

function networkOf({ family, bytes, prefix }: Cidr): Network {
  const isV4 = family === 4;
  const bits = isV4 ? 96 + prefix : prefix;
  const masks = Uint8Array.from({ length: 16 }, (_, i) => {
    return 0xff00 >> Math.min(8, Math.max(0, bits - 8 * i));
  });
  return { isV4, words: wordsOf(mapped(bytes)), masks: wordsOf(masks) };
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.slice().buffer);
}
