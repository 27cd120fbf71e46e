/**
 * Services that the kernel carries no more: connections of TCP go on until they end, and are seen
 * and counted as long. Sessions of UDP have no end that could be awaited, and are over at once.
 */

import type { FlowWatch } from "./flow-watch.ts";
import type { HeldPath } from "./held-path.ts";

const lookMs = 1_000;

export class LeavingServices {
  /** The names of the services. */
  private readonly names = new Map<FlowWatch, string>();
  /** Rules without which their connections would break, as no others are there. */
  private readonly paths: HeldPath[] = [];
  private readonly forget: (name: string, watch: FlowWatch) => void;
  private timer: Timer | undefined;

  /** `forget` gives back the watch of a service that has no connection any more. */
  constructor(forget: (name: string, watch: FlowWatch) => void) {
    this.forget = forget;
  }

  /** A service whose rules for new connections are gone. */
  add(name: string, watch: FlowWatch): void {
    watch.endSessions();
    this.names.set(watch, name);
    this.timer ??= setInterval(() => this.look(), lookMs);
  }

  /** The rules of all services that were there. */
  hold(path: HeldPath): void {
    path.drain();
    this.paths.push(path);
  }

  get watches(): FlowWatch[] {
    return [...this.names.keys()];
  }

  /** The numbers that no other service may have. */
  get numbers(): number[] {
    return this.watches.map(({ owner }) => owner.number);
  }

  /** Gives everything back; connections that are open break. */
  release(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    for (const [watch, name] of this.names) this.forget(name, watch);
    this.names.clear();
    for (const path of this.paths.splice(0)) path.release();
  }

  private look(): void {
    for (const [watch, name] of this.names) {
      if (watch.openStreams() > 0) continue;
      this.names.delete(watch);
      this.forget(name, watch);
    }
    if (this.names.size === 0) this.release();
  }
}
