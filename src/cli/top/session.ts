/** `top` on a terminal: streams of the admin API in, frames out, keys in between. */

import type { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { CommandError, exitStatus, UsageError } from "../../errors.ts";
import type { LogLine, Status } from "./data.ts";
import type { Key } from "./keys.ts";
import type { Action, TopModel } from "./model.ts";
import { renderFrame } from "./render.ts";
import { Screen, type ScreenOwner } from "./screen.ts";

/** How long after a lost stream it is asked for again. */
const retryMs = 1_000;
/** Connections that are shown at once. */
const connectionsMax = 200;
/** Lines of the log that are asked for at first. */
const linesMax = 200;

export class TopSession implements ScreenOwner {
  private readonly client: AdminClient;
  private readonly model: TopModel;
  private readonly colors: boolean;
  private readonly io: ProcessIo;
  private readonly screen = new Screen(this);
  private readonly over = Promise.withResolvers<void>();
  private isOver = false;
  /** Counts the streams of statuses: an older one is left. */
  private generation = 0;

  constructor(client: AdminClient, model: TopModel, io: ProcessIo) {
    this.client = client;
    this.model = model;
    this.io = io;
    this.colors = io.stdout.colors;
  }

  /** Runs until somebody quits; the exit status. @throws CommandError if nothing runs */
  async run(): Promise<number> {
    // Before the screen changes: otherwise the reason would be lost with it.
    await this.client.request("GET", "/v1/status");
    this.io.onExit(() => this.screen.close());
    this.io.onStop(() => this.quit());
    this.io.onHangup(() => this.quit());
    this.screen.open();
    try {
      this.draw();
      this.begin(this.watch());
      this.begin(this.followLog());
      await this.over.promise;
    } finally {
      this.quit();
      this.screen.close();
    }
    return exitStatus.success;
  }

  pressed(key: Key): void {
    this.guarded(() => {
      const action = this.model.press(key);
      if (action !== undefined) this.begin(this.carryOut(action));
      this.draw();
    });
  }

  resized(): void {
    this.guarded(() => this.draw());
  }

  /** An error ends the session as one of `run`, which is shown when the terminal is restored. */
  private guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.over.reject(error);
    }
  }

  private begin(work: Promise<void>): void {
    work.catch((error) => this.over.reject(error));
  }

  private quit(): void {
    this.isOver = true;
    this.generation++;
    this.over.resolve();
  }

  private draw(): void {
    if (!this.isOver) this.screen.draw(renderFrame(this.model, this.screen.size, this.colors));
  }

  private async carryOut(action: Action): Promise<void> {
    const { client, model } = this;
    try {
      switch (action.kind) {
        case "quit":
          return this.quit();
        case "query":
          return this.begin(this.watch());
        case "kill":
          await client.request("DELETE", `/v1/connections/${encodeURIComponent(action.id)}`);
          model.message = `connection ${action.id} has been ended`;
          break;
        case "service": {
          const { name, state } = action;
          await client.request("PATCH", `/v1/services/${encodeURIComponent(name)}`, { state });
          model.message = `service ${name}: ${state}`;
          break;
        }
        case "upstream": {
          const { pool, name, state } = action;
          const [at, of] = [encodeURIComponent(pool), encodeURIComponent(name)];
          await client.request("PATCH", `/v1/pools/${at}/upstreams/${of}`, { state });
          model.message = `upstream ${pool}/${name}: ${state}`;
        }
      }
    } catch (error) {
      model.message = textOf(error);
    }
    this.draw();
  }

  /** Shows statuses until somebody quits, or asks for others. */
  private async watch(): Promise<void> {
    const generation = ++this.generation;
    while (generation === this.generation) {
      const { connectionSort: sort, queryParts } = this.model;
      const parameters = new URLSearchParams({ every: "1s", top: String(connectionsMax), sort });
      for (const [name, value] of queryParts) parameters.append(name, value);
      const ended = await this.read(`/v1/events?${parameters}`, (event, data) => {
        if (generation !== this.generation) return false;
        if (event === "status") this.model.update(data as Status);
        this.draw();
        return true;
      });
      if (generation !== this.generation) return;
      this.model.problem = ended;
      this.draw();
      await Bun.sleep(retryMs);
    }
  }

  private async followLog(): Promise<void> {
    for (let limit = linesMax; !this.isOver; limit = 0) {
      await this.read(`/v1/log?follow=1&limit=${limit}`, (event, data) => {
        if (event === "line") this.model.add(data as LogLine);
        if (this.model.view === "log") this.draw();
        return !this.isOver;
      });
      await Bun.sleep(retryMs);
    }
  }

  /** Reads a stream while `take` wants more; why it has ended. */
  private async read(
    target: string,
    take: (event: string, data: unknown) => boolean,
  ): Promise<string> {
    try {
      for await (const { event, data } of this.client.events(target)) {
        if (!take(event, data)) break;
      }
      return "no connection: the process has ended the stream";
    } catch (error) {
      const text = textOf(error);
      // The filter was wrong, or what was asked for is not there.
      return error instanceof UsageError ? text : `no connection: ${text}`;
    }
  }
}

/** The error of the process as text. @throws any other error */
function textOf(error: unknown): string {
  if (error instanceof CommandError || error instanceof UsageError) return error.message;
  throw error;
}
