/**
 * What administrators and reloads have made of a server since its start, and the configuration file
 * does not have: a process hands it to the one that takes over.
 */

import * as v from "valibot";
import { effectiveSettings } from "../../config/effective.ts";
import type { Configuration } from "../../config/service.ts";
import { configurationKind } from "../../config/settings.ts";
import type { Log } from "../../log/log.ts";
import type { HeldState, ReloadStatus } from "./status.ts";

/** The parts of a server that are handed over so. */
export interface RunTimeParts {
  generation: number;
  lastReload: ReloadStatus | undefined;
  /** By name: services that an administrator has taken out. */
  readonly held: Map<string, HeldState>;
  readonly configuration: Configuration;
  readonly log: Pick<Log, "level" | "levelEnd" | "setLevel">;
}

const reload = v.object({
  time: v.number(),
  isSuccessful: v.boolean(),
  successTime: v.optional(v.number()),
  problems: v.pipe(v.array(v.string()), v.readonly()),
});

const level = v.object({
  name: v.picklist(["debug", "info", "warning", "error"]),
  /** When it ends, in ms since 1970; absent: it stays. */
  end: v.optional(v.number()),
});

/** A field that another release has otherwise is left out. */
const handed = v.object({
  generation: v.fallback(v.optional(v.number()), undefined),
  /** Of the configuration of that generation. */
  digest: v.fallback(v.optional(v.string()), undefined),
  held: v.fallback(v.array(v.tuple([v.string(), v.picklist(["drained", "down"])])), []),
  lastReload: v.fallback(v.optional(reload), undefined),
  level: v.fallback(v.optional(level), undefined),
});

/** The state of a server for the process that takes over, as JSON. */
export function handOverRunTime(server: RunTimeParts): object {
  const { generation, held, lastReload, configuration, log } = server;
  return {
    ...{ generation, digest: digestOf(configuration), held: [...held] },
    ...(lastReload === undefined ? {} : { lastReload }),
    ...(log.level === undefined ? {} : { level: { name: log.level, end: log.levelEnd } }),
  };
}

/**
 * Goes on with what `handOverRunTime` of another process has returned, at `now` (ms since 1970).
 * The generation grows if the configuration is another one than that of the other process.
 */
export function takeRunTime(server: RunTimeParts, state: unknown, now = Date.now()): void {
  const { success, output } = v.safeParse(handed, state);
  if (!success) return;
  const { generation, digest, held, lastReload, level } = output;
  for (const [name, each] of held) {
    if (server.configuration.services.some((service) => service.name === name)) {
      server.held.set(name, each);
    }
  }
  const isSame = digest === digestOf(server.configuration);
  if (generation !== undefined) server.generation = isSame ? generation : generation + 1;
  // The file was read and is valid, also if it was not when it was last reloaded.
  server.lastReload =
    isSame && lastReload?.isSuccessful !== false
      ? lastReload && { ...lastReload, successTime: lastReload.successTime }
      : { time: now, isSuccessful: true, successTime: now, problems: [] };
  if (level === undefined) return;
  const leftMs = level.end === undefined ? 0 : level.end - now;
  if (level.end === undefined || leftMs > 0) server.log.setLevel(level.name, leftMs);
}

/** Equal for configurations that set the same. */
function digestOf({ settings }: Configuration): string {
  const all = configurationKind.write(effectiveSettings(settings));
  return Bun.hash(JSON.stringify(all)).toString(16);
}
