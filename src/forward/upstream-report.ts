/** Counts and logs what a Worker finds out about its upstreams. */

import { formatBytes } from "../net/address.ts";
import { formatUpstream } from "../net/socket-address.ts";
import { Counter } from "../workers/counters.ts";
import type { ServiceContext } from "../workers/service-context.ts";
import type { Upstream } from "./upstream.ts";
import type { PoolListener } from "./upstream-pool.ts";

export class UpstreamReport implements PoolListener {
  private readonly context: ServiceContext;

  constructor(context: ServiceContext) {
    this.context = context;
  }

  fails(): void {
    this.context.shared.count(Counter.upstreamFailures, 1);
  }

  backsOff({ address, failures, backOffMs }: Upstream, reason: string): void {
    this.context.shared.count(Counter.upstreamBackOffs, 1);
    const name = `upstream ${formatUpstream(address)}`;
    this.context.warn(
      `${name} backs off for ${backOffMs / 1000} s: ${failures} failures in a row, ` +
        `the last: ${reason}`,
      { kind: `${name} backs off` },
    );
  }

  backsOffFor({ address }: Upstream, client: Uint8Array, ms: number, reason: string): void {
    this.context.shared.count(Counter.upstreamBackOffs, 1);
    const text =
      `upstream ${formatUpstream(address)} backs off for ${ms / 1000} s for ` +
      `${formatBytes(client)} alone: its last failure: ${reason}`;
    this.context.warn(text, { kind: "upstream-client" });
  }

  recovered({ address }: Upstream): void {
    this.context.warn(`upstream ${formatUpstream(address)} is back`);
  }
}
