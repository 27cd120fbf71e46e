/**
 * How many ICMP errors may be sent: as many as the kernel would send of its own, by its own sysctls
 * (icmp(7)): so many a second in all, after a burst, and one to each host in so long, after six.
 * Otherwise whoever sends in the name of others could have them flooded. Pure: time is handed in.
 */

import type { IcmpLimits } from "../../workers/protocol.ts";

/** XRLIM_BURST_FACTOR of net/ipv4/icmp.c. */
const PEER_BURST = 6;

/** Hosts of which it is known when they were told something; the first one is forgotten first. */
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

  /** Whether one more may be sent to `peer`, 4 or 16 bytes, at `now` (ms); then it is counted. */
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

/** Puts in what has come together by `now`; whether there is a token. */
function fill(bucket: Bucket, now: number, perMs: number, most: number): boolean {
  bucket.tokens = Math.min(most, bucket.tokens + (now - bucket.filledAt) * perMs);
  bucket.filledAt = now;
  return bucket.tokens >= 1;
}
