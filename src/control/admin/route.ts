/** One route of the admin API. */

/** A request to it. */
export interface RouteRequest {
  readonly request: Request;
  readonly parameters: URLSearchParams;
  /** The parts of the path that matched `*`. */
  readonly values: readonly string[];
}

export interface Route {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly path: readonly string[];
  /** The response, or what is returned as JSON with status 200. @throws ApiError */
  readonly answer: (request: RouteRequest) => Promise<Response | object> | Response | object;
}

/** A route at a path, in which `*` matches any name. */
export function route(method: Route["method"], path: string, answer: Route["answer"]): Route {
  return { method, path: path.split("/").slice(1), answer };
}
