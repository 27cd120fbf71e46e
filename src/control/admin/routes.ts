/**
 * The routes of the admin API, by method and path. The read-only socket has those that change
 * nothing and show no secret; which one a client may connect to is decided by the files' modes.
 */

import type { Controlled } from "./controlled.ts";
import type { Handler } from "./http-server.ts";
import { ApiError, jsonResponse, problemResponse } from "./problem.ts";
import type { Route } from "./route.ts";
import { changingRoutes } from "./routes-change.ts";
import { readingRoutes } from "./routes-read.ts";
import { Streams } from "./streams.ts";

/** The purpose of a socket. */
export type Access = "admin" | "read-only";

/** The handler of all requests at a socket. */
export function routesOf(server: Controlled, access: Access): Handler {
  const reading = readingRoutes(server, new Streams());
  const changing = changingRoutes(server);
  const allowed = access === "admin" ? [...reading, ...changing] : reading;
  return async (request) => {
    try {
      return await dispatch(request, allowed, access === "admin" ? [] : changing);
    } catch (error) {
      if (error instanceof ApiError) return problemResponse(error);
      throw error;
    }
  };
}

async function dispatch(
  request: Request,
  routes: readonly Route[],
  forbidden: readonly Route[],
): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  const path = segmentsOf(pathname);
  const method = request.method === "HEAD" ? "GET" : request.method;
  const here = routes.filter((route) => isAt(route, path));
  const found = here.find((route) => route.method === method);
  if (found !== undefined) {
    const values = path.filter((_, index) => found.path[index] === "*");
    const answer = await found.answer({ request, parameters: searchParams, values });
    return answer instanceof Response ? answer : jsonResponse(answer);
  }
  if (forbidden.some((route) => route.method === method && isAt(route, path))) {
    throw new ApiError(403, "this socket is for reading: use the admin socket");
  }
  if (here.length === 0) throw new ApiError(404, `there is nothing at ${pathname}`);
  const methods = [...new Set(here.map((route) => route.method))].join(", ");
  const response = problemResponse(
    new ApiError(405, `${method} is not answered at ${pathname}: use ${methods}`),
  );
  response.headers.set("allow", methods);
  return response;
}

/** @throws ApiError for invalid escapes */
function segmentsOf(pathname: string): string[] {
  try {
    return pathname.split("/").slice(1).map(decodeURIComponent);
  } catch {
    throw new ApiError(400, "the path has an invalid escape");
  }
}

function isAt({ path }: Route, segments: readonly string[]): boolean {
  if (path.length !== segments.length) return false;
  return path.every((part, index) =>
    part === "*" ? segments[index] !== "" : part === segments[index],
  );
}
