/** Errors of the admin API, as `application/problem+json` (RFC 9457). Pure. */

import { STATUS_CODES } from "node:http";
import { printJson } from "../../net/printable.ts";

/** What is wrong in a configuration, and where. */
export interface ProblemPlace {
  readonly file?: string;
  readonly line?: number;
  readonly column?: number;
  readonly path?: string;
  readonly message: string;
}

/** An error that an API request ends with; `detail` is one line for people. */
export class ApiError extends Error {
  readonly status: number;
  readonly problems: readonly ProblemPlace[] | undefined;

  constructor(status: number, detail: string, problems?: readonly ProblemPlace[]) {
    super(detail);
    this.status = status;
    this.problems = problems;
  }
}

/** The response that tells an error. */
export function problemResponse({ status, message, problems }: ApiError): Response {
  const body = { status, title: STATUS_CODES[status] ?? "Error", detail: message, problems };
  return jsonResponse(body, status, "application/problem+json");
}

/** A response of JSON, a newline at its end. */
export function jsonResponse(body: unknown, status = 200, type = "application/json"): Response {
  return new Response(`${printJson(body)}\n`, {
    status,
    headers: { "content-type": type, "cache-control": "no-store" },
  });
}
