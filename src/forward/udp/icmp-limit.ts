/**
 * Limits ICMP errors as the kernel limits its own, by the same sysctls (icmp(7)): a rate and a
 * burst for all hosts together, and an interval and a burst of six for each host. Without a limit,
 * clients with forged addresses could flood other hosts. Pure: the caller gives the time.
 */

import type { IcmpLimits } from "../../workers/protocol.ts";

/** XRLIM_BURST_FACTOR of net/ipv4/icmp.c. */
const PEER_BURST = 6;

/** Hosts whose last errors are remembered; the oldest entry is forgotten first. */
const PEERS_MAX = 1_024;

interface Bucket {
  tokens: number;
  filledAt: number;
}

export class IcmpLimit {
  private readonly limits: IcmpLimits;
  private readonly all: Bucket;
  private readonly peers = new Map<string, Bucket>();

  constructor(limits: IcmpLimits) {
    this.limits = limits;
    this.all = { tokens: limits.burst, filledAt: Number.NEGATIVE_INFINITY };
  }

  /** Returns whether one more may go to `peer` (4 or 16 bytes) at `now` (ms), and counts it. */
  admits(peer: Uint8Array, now: number): boolean {
    const { perSecond, burst, perPeerMs, perPeerMsV6 } = this.limits;
    const peerMs = peer.length === 4 ? perPeerMs : perPeerMsV6;
    const bucket = peerMs === 0 ? undefined : this.bucketOf(peer);
    if (bucket !== undefined && !fill(bucket, now, 1 / peerMs, PEER_BURST)) return false;
    if (!fill(this.all, now, perSecond / 1000, burst)) return false;
    this.all.tokens--;
    if (bucket !== undefined) bucket.tokens--;
    return true;
  }

  private bucketOf(peer: Uint8Array): Bucket {
    const key = peer.join(".");
    let bucket = this.peers.get(key);
    if (bucket === undefined) {
      const [first] = this.peers.keys();
      if (this.peers.size >= PEERS_MAX && first !== undefined) this.peers.delete(first);
      bucket = { tokens: PEER_BURST, filledAt: Number.NEGATIVE_INFINITY };
      this.peers.set(key, bucket);
    }
    return bucket;
  }
}

/** Adds the tokens due by `now`; returns whether there is one. */
function fill(bucket: Bucket, now: number, perMs: number, most: number): boolean {
  bucket.tokens = Math.min(most, bucket.tokens + (now - bucket.filledAt) * perMs);
  bucket.filledAt = now;
  return bucket.tokens >= 1;
}
