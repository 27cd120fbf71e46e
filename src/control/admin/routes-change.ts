/** The routes that change something, or show what not everybody may see. Each change is logged. */

import { quote } from "../../net/result.ts";
import { filterParts, isEmptyFilter } from "../../workers/row-filter.ts";
import { ScanError, type Selection } from "../../workers/scan-requests.ts";
import type { Applied, Controlled, UpstreamChange } from "./controlled.ts";
import { ApiError } from "./problem.ts";
import { checkParameters, durationOf, fieldsOf, filterOf, idsOf } from "./requests.ts";
import { type Route, type RouteRequest, route } from "./route.ts";
import { levelOf } from "./routes-read.ts";

/** How long another log level may stay by itself. */
const levelBounds = { least: 1_000, most: 24 * 3_600_000 };

/** The routes for changing. */
export function changingRoutes(server: Controlled): Route[] {
  return [
    route("DELETE", "/v1/connections", (request) => killMany(server, request)),
    route("DELETE", "/v1/connections/*", ({ values: [id = ""] }) =>
      kill(server, { kind: "ids", ids: idsOf(id) }, `connection ${id}`),
    ),
    route("PATCH", "/v1/services/*", (request) => setService(server, request)),
    route("PATCH", "/v1/pools/*/upstreams/*", (request) => setUpstream(server, request)),
    route("PUT", "/v1/log/level", (request) => setLogLevel(server, request)),
    route("POST", "/v1/check", (request) => check(server, request)),
    route("POST", "/v1/reload", (request) => reload(server, request)),
    route("POST", "/v1/upgrade", (request) => upgrade(server, request)),
    route("POST", "/v1/stop", (request) => stop(server, request)),
    route("GET", "/v1/config", (request) => configuration(server, request)),
    route("GET", "/v1/config/schema", async () => {
      const { configurationSchema } = await import("../../config/json-schema.ts");
      return configurationSchema() as object;
    }),
  ];
}

function killMany(server: Controlled, { parameters }: RouteRequest): Promise<object> {
  checkParameters(parameters, filterParts);
  const filter = filterOf(parameters);
  if (isEmptyFilter(filter)) {
    const parts = filterParts.join(", ");
    throw new ApiError(400, `without a filter this would end all connections: give ${parts}`);
  }
  const words = [...parameters].map(([name, value]) => `${name} ${value}`).join(", ");
  return kill(server, { kind: "filter", filter }, `connections with ${words}`);
}

async function kill(server: Controlled, selection: Selection, words: string): Promise<object> {
  try {
    const ended = await server.kill(selection);
    server.changed(`kill ${words}: ${ended} ended`);
    return { ended };
  } catch (error) {
    throw error instanceof ScanError ? new ApiError(503, error.message) : error;
  }
}

async function setService(
  server: Controlled,
  { request, values: [name = ""] }: RouteRequest,
): Promise<object> {
  const { state } = await fieldsOf(request, { state: "string" });
  if (state !== "ready" && state !== "drained" && state !== "down") {
    const given = quote(state ?? "");
    throw new ApiError(400, `state: ${given}: give "ready", "drained" or "down"`);
  }
  if (server.setService === undefined) throw cannot("drain services");
  requireChangeable(server);
  await server.setService(name, state);
  server.changed(`service ${name}: ${state}`);
  return { name, state };
}

const upstreamStates = ["ready", "drain", "down"] as const;

async function setUpstream(
  server: Controlled,
  { request, values: [pool = "", upstream = ""] }: RouteRequest,
): Promise<object> {
  const fields = await fieldsOf(request, { state: "string", weight: "number", force: "boolean" });
  const { weight, force = false } = fields;
  const state = upstreamStates.find((each) => each === fields.state);
  if (fields.state !== undefined && state === undefined) {
    const given = quote(fields.state);
    throw new ApiError(400, `state: ${given}: give one of ${upstreamStates.join(", ")}`);
  }
  if (weight !== undefined && !(Number.isInteger(weight) && weight >= 0 && weight <= 256)) {
    throw new ApiError(400, "weight: give a whole number from 0 to 256");
  }
  if (state === undefined && weight === undefined) throw new ApiError(400, "give state or weight");
  if (server.setUpstream === undefined) throw cannot("drain upstreams");
  requireChangeable(server);
  const change: UpstreamChange = { state, weight, force };
  server.setUpstream(pool, upstream, change);
  const words = [state, weight === undefined ? undefined : `weight ${weight}`];
  const text = words.filter((word) => word !== undefined).join(", ");
  server.changed(`upstream ${pool}/${upstream}: ${text}${force ? ", forced" : ""}`);
  return { pool, name: upstream, state, weight };
}

async function setLogLevel(server: Controlled, { request }: RouteRequest): Promise<object> {
  const fields = await fieldsOf(request, { level: "string", for: "string" });
  const level = levelOf(fields.level ?? "");
  const ms = fields.for === undefined ? 0 : durationOf("for", fields.for, levelBounds);
  requireChangeable(server);
  server.log.setLevel(level, ms);
  server.changed(`log level ${level}${fields.for === undefined ? "" : ` for ${fields.for}`}`);
  return { level, for: fields.for };
}

async function check(server: Controlled, { request }: RouteRequest): Promise<object> {
  if (server.check === undefined) throw cannot("check configurations");
  const problems = await server.check(await request.text());
  if (problems.length > 0) throw invalid(problems.length, problems);
  return { problems };
}

function invalid(count: number, problems: ApiError["problems"]): ApiError {
  return new ApiError(
    422,
    count === 1 ? "there is a problem" : `there are ${count} problems`,
    problems,
  );
}

async function reload(server: Controlled, { request }: RouteRequest): Promise<object> {
  const fields = await fieldsOf(request, { dry_run: "boolean", close_removed: "boolean" });
  if (server.reload === undefined) throw cannot("reload: it has no configuration file");
  const wanted = request.headers.get("if-match");
  const { generation } = server.status() as { generation?: number };
  if (wanted !== null && wanted !== "*" && wanted !== `"${generation}"`) {
    throw new ApiError(412, `the configuration in force is generation ${generation}`);
  }
  const { dry_run: isDry = false, close_removed: closesRemoved = false } = fields;
  if (!isDry) requireChangeable(server);
  const applied: Applied = await server.reload({ isDry, closesRemoved });
  if (!isDry) server.changed(`reload: generation ${applied.generation}`);
  return applied;
}

async function upgrade(server: Controlled, { request }: RouteRequest): Promise<object> {
  const { exec } = await fieldsOf(request, { exec: "string" });
  if (server.upgrade === undefined) throw cannot("upgrade");
  server.changed(`upgrade${exec === undefined ? "" : ` to ${exec}`}`);
  return await server.upgrade(exec);
}

async function stop(server: Controlled, { request }: RouteRequest): Promise<object> {
  const { now = false } = await fieldsOf(request, { now: "boolean" });
  server.changed(now ? "stop now" : "stop");
  // Behind the answer, which the end of the process would cut off.
  setTimeout(() => server.stop(now), stopDelayMs);
  return { stopping: true };
}

const stopDelayMs = 50;

async function configuration(server: Controlled, { request }: RouteRequest): Promise<Response> {
  if (server.configuration === undefined) throw cannot("show its configuration");
  const type = isJson(request.headers.get("accept")) ? "json" : "toml";
  const text = await server.configuration(type);
  const { generation } = server.status() as { generation?: number };
  return new Response(text, {
    headers: {
      "content-type": type === "json" ? "application/json" : "application/toml",
      etag: `"${generation}"`,
      "cache-control": "no-store",
    },
  });
}

function isJson(type: string | null): boolean {
  return type !== null && /\bapplication\/json\b/.test(type);
}

/** @throws ApiError while nothing may be changed */
function requireChangeable({ obstacle }: Controlled): void {
  if (obstacle !== undefined) throw new ApiError(409, `nothing was changed: ${obstacle}`);
}

function cannot(what: string): ApiError {
  return new ApiError(501, `this server cannot ${what}`);
}
