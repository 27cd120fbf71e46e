/** The routes that change nothing. */

import { isLogged, type LevelName } from "../../log/level.ts";
import type { LogEntry } from "../../log/recent.ts";
import { printLine } from "../../net/printable.ts";
import { quote } from "../../net/result.ts";
import { LogLevel } from "../../workers/protocol.ts";
import { filterParts } from "../../workers/row-filter.ts";
import { ScanError } from "../../workers/scan-requests.ts";
import type { Controlled } from "./controlled.ts";
import { type NamedPools, rowsJson, toJson } from "./json.ts";
import { ApiError } from "./problem.ts";
import { checkParameters, durationOf, queryOf } from "./requests.ts";
import { type Route, type RouteRequest, route } from "./route.ts";
import type { Streams } from "./streams.ts";

const queryNames = [...filterParts, "sort"];

/** How often a stream may have an event. */
const everyBounds = { least: 200, most: 60_000 };

/** The routes for reading. */
export function readingRoutes(server: Controlled, streams: Streams): Route[] {
  const status = () => toJson(server.status()) as StatusJson;
  return [
    route("GET", "/v1/status", () => status()),
    route("GET", "/v1/services", () => ({ services: status().services })),
    route("GET", "/v1/services/*", ({ values: [name = ""] }) =>
      named("service", status().services, name),
    ),
    route("GET", "/v1/pools", () => ({ pools: status().pools })),
    route("GET", "/v1/pools/*", ({ values: [name = ""] }) => named("pool", status().pools, name)),
    route("GET", "/v1/pools/*/upstreams/*", ({ values: [pool = "", name = ""] }) =>
      named("upstream", named("pool", status().pools, pool).upstreams ?? [], name),
    ),
    route("GET", "/v1/connections", (request) => connections(server, request)),
    route("GET", "/v1/events", (request) => events(server, streams, request)),
    route("GET", "/v1/log", (request) => logLines(server, streams, request)),
    route("GET", "/healthz", () => plain("ok")),
    route("GET", "/readyz", () => {
      const why = server.notReady();
      return why === undefined ? plain("ready") : plain(why, 503);
    }),
    route("GET", "/metrics", () => {
      const metrics = server.metrics?.();
      if (metrics === undefined) throw new ApiError(501, "there are no metrics");
      return new Response(metrics.text, { headers: { "content-type": metrics.type } });
    }),
  ];
}

interface Named {
  readonly name: string;
  readonly upstreams?: readonly Named[];
}

/** The parts of a status that routes read. */
interface StatusJson {
  readonly services: readonly Named[];
  readonly pools: readonly Named[];
}

function named(kind: string, all: readonly Named[], name: string): Named {
  const found = all.find((each) => each.name === name);
  if (found !== undefined) return found;
  const names = all.map((each) => each.name).slice(0, 10);
  const known = names.length === 0 ? "there are none" : `there is ${names.join(", ")}`;
  throw new ApiError(404, `there is no ${kind} ${quote(name)}: ${known}`);
}

function plain(text: string, status = 200): Response {
  return new Response(`${printLine(text)}\n`, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store" },
  });
}

async function connections(server: Controlled, { parameters }: RouteRequest): Promise<object> {
  checkParameters(parameters, [...queryNames, "limit"]);
  const query = queryOf(parameters, "limit", { sort: "age", limit: 50, rates: false });
  try {
    return rowsJson(await server.query(query), server.status() as NamedPools);
  } catch (error) {
    throw error instanceof ScanError ? new ApiError(503, error.message) : error;
  }
}

/** A stream of the status with the top rows, once in `every`. */
function events(
  server: Controlled,
  streams: Streams,
  { request, parameters }: RouteRequest,
): Response {
  checkParameters(parameters, [...queryNames, "every", "top"]);
  const every = durationOf("every", parameters.get("every") ?? "1s", everyBounds);
  const query = queryOf(parameters, "top", { sort: "rate", limit: 50, rates: true });
  if (request.method === "HEAD") return new Response();
  return streams.open((sink) => {
    let isAsking = false;
    const send = async () => {
      // A Worker that is slow to answer is not asked again meanwhile.
      if (isAsking) return;
      isAsking = true;
      try {
        const rows = await server.query(query);
        const time = new Date().toISOString();
        const now = server.status();
        const open = rowsJson(rows, now as NamedPools);
        sink.offer("status", { time, ...(toJson(now) as object), ...open });
      } catch (error) {
        sink.offer("error", { detail: String(error instanceof Error ? error.message : error) });
      }
      isAsking = false;
    };
    const timer = setInterval(() => void send(), every);
    void send();
    return () => clearInterval(timer);
  });
}

/** The last lines of the log, or with `follow` those and all that come. */
function logLines(
  { log }: Controlled,
  streams: Streams,
  { request, parameters }: RouteRequest,
): Response | object {
  checkParameters(parameters, ["follow", "level", "service", "limit"]);
  const level = levelOf(parameters.get("level") ?? "debug");
  const service = parameters.get("service");
  const limit = Number(parameters.get("limit") ?? "1000");
  if (!Number.isInteger(limit) || limit < 0) throw new ApiError(400, "limit: give a number");
  const follow = parameters.get("follow") ?? "0";
  if (follow !== "0" && follow !== "1") throw new ApiError(400, 'follow: give "1" or "0"');
  const isWanted = (line: LogEntry) =>
    isLogged(line.level, LogLevel[level]) && (service === null || line.fields.service === service);
  const known = log.recent().filter(isWanted);
  const last = limit === 0 ? [] : known.slice(-limit);
  if (follow === "0" || request.method === "HEAD") return { lines: last.map(lineJson) };
  return streams.open((sink) => {
    for (const line of last) sink.push("line", lineJson(line));
    return log.follow((line) => {
      if (isWanted(line)) sink.push("line", lineJson(line));
    });
  });
}

function lineJson({ time, level, text, fields }: LogEntry): object {
  return { ...fields, time: new Date(time).toISOString(), level, text };
}

/** @throws ApiError */
export function levelOf(text: string): LevelName {
  const levels = Object.keys(LogLevel) as LevelName[];
  const found = levels.find((level) => level === text);
  if (found !== undefined) return found;
  throw new ApiError(400, `level: ${quote(text)}: give one of ${levels.join(", ")}`);
}
