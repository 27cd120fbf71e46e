/** What a Worker counts and says of its upstreams. */

import { upstreamFailuresMax } from "../engine/limits.ts";
import { formatBytes } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { Counter } from "../workers/counters.ts";
import type { ServiceContext } from "../workers/service-context.ts";
import type { PoolListener, Upstream } from "./upstream-pool.ts";

export class UpstreamReport implements PoolListener {
  private readonly context: ServiceContext;

  constructor(context: ServiceContext) {
    this.context = context;
  }

  fails(): void {
    this.context.shared.count(Counter.upstreamFailures, 1);
  }

  backsOff({ address, failures, restMs }: Upstream, reason: string): void {
    this.context.shared.count(Counter.upstreamRests, 1);
    const name = `upstream ${formatSocketAddress(address)}`;
    this.context.warn(
      `${name} rests for ${restMs / 1000} s: ${failures} failures in a row, the last: ${reason}`,
      { kind: `${name} rests` },
    );
  }

  backsOffFor({ address }: Upstream, client: Uint8Array, restMs: number, reason: string): void {
    this.context.shared.count(Counter.upstreamRests, 1);
    const text =
      `upstream ${formatSocketAddress(address)} rests for ${restMs / 1000} s for ` +
      `${formatBytes(client)} alone: ${upstreamFailuresMax} failures in a row, the last: ${reason}`;
    this.context.warn(text, { kind: "upstream-client" });
  }

  recovered({ address }: Upstream): void {
    this.context.warn(`upstream ${formatSocketAddress(address)} is back`);
  }
}
