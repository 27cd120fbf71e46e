/** Errors of the admin API, as `application/problem+json` (RFC 9457). Pure. */

import type { ConfigProblem } from "../../config/problem.ts";
import { printJson } from "../../net/printable.ts";
import { statusText } from "./status-texts.ts";

/** A problem of a configuration, and its place. */
export interface ProblemPlace {
  readonly file?: string;
  readonly line?: number;
  readonly column?: number;
  readonly path?: string;
  readonly message: string;
}

/** A problem of a configuration, as the API has it. */
export function problemPlace({ file, at, text: message }: ConfigProblem): ProblemPlace {
  return { file, ...(at === undefined ? {} : { line: at.line, column: at.column }), message };
}

/** An error that an API request ends with; `detail` is one line for people. */
export class ApiError extends Error {
  readonly status: number;
  readonly problems: readonly ProblemPlace[] | undefined;
  /** The request is fine, and only a new process can carry it out. */
  readonly needsUpgrade: boolean;

  constructor(
    status: number,
    detail: string,
    problems?: readonly ProblemPlace[],
    needsUpgrade = false,
  ) {
    super(detail);
    this.status = status;
    this.problems = problems;
    this.needsUpgrade = needsUpgrade;
  }
}

/** The response for an error. */
export function problemResponse(error: ApiError): Response {
  const { status, message, problems } = error;
  const needs_upgrade = error.needsUpgrade || undefined;
  const body = {
    status,
    title: statusText(status) || "Error",
    detail: message,
    problems,
    needs_upgrade,
  };
  return jsonResponse(body, status, "application/problem+json");
}

/** A response of JSON, a newline at its end. */
export function jsonResponse(body: unknown, status = 200, type = "application/json"): Response {
  return new Response(`${printJson(body)}\n`, {
    status,
    headers: { "content-type": type, "cache-control": "no-store" },
  });
}
