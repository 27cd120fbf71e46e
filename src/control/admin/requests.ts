/** Reads queries and bodies of requests strictly: an unknown name is an error. Pure. */

import { parseDuration } from "../../net/duration.ts";
import { type Parsed, quote } from "../../net/result.ts";
import { type ConnectionId, parseConnectionId } from "../../workers/connection-id.ts";
import { type RowQuery, type SortKey, sortKeys } from "../../workers/query.ts";
import {
  type FilterPart,
  filterParts,
  parseFilterPart,
  type RowFilter,
} from "../../workers/row-filter.ts";
import { queryRowsMax } from "../../workers/scan-limits.ts";
import { ApiError } from "./problem.ts";

/** The value of a parser's result. @throws ApiError naming the parameter */
function accepted<T>(name: string, parsed: Parsed<T>): T {
  if (parsed.ok) return parsed.value;
  throw new ApiError(400, `${name}: ${parsed.error}`);
}

/** @throws ApiError for a parameter that is not among `known`, or comes twice */
export function checkParameters(parameters: URLSearchParams, known: readonly string[]): void {
  const seen = new Set<string>();
  for (const name of parameters.keys()) {
    if (!known.includes(name)) {
      const names = known.length === 0 ? "none" : known.join(", ");
      throw new ApiError(400, `${quote(name)} is no parameter here: give ${names}`);
    }
    if (seen.has(name)) throw new ApiError(400, `${name} is given twice`);
    seen.add(name);
  }
}

/** The parts of a filter among the parameters. @throws ApiError */
export function filterOf(parameters: URLSearchParams): RowFilter {
  const filter: Partial<Record<FilterPart, unknown>> = {};
  for (const part of filterParts) {
    const text = parameters.get(part);
    if (text !== null) filter[part] = accepted(part, parseFilterPart(part, text));
  }
  return filter as RowFilter;
}

/** The parameters of a query for rows, whose limit is called `limitName`. @throws ApiError */
export function queryOf(
  parameters: URLSearchParams,
  limitName: "limit" | "top",
  byDefault: { readonly sort: SortKey; readonly limit: number; readonly rates: boolean },
): RowQuery {
  const sortText = parameters.get("sort") ?? byDefault.sort;
  const sort = sortKeys.find((key) => key === sortText);
  if (sort === undefined) {
    throw new ApiError(400, `sort: ${quote(sortText)}: give one of ${sortKeys.join(", ")}`);
  }
  const text = parameters.get(limitName) ?? String(byDefault.limit);
  const limit = Number(text);
  if (!/^[0-9]{1,5}$/.test(text) || limit > queryRowsMax) {
    const range = `a number from 0 to ${queryRowsMax}`;
    throw new ApiError(400, `${limitName}: ${quote(text)} is not accepted: give ${range}`);
  }
  return { filter: filterOf(parameters), sort, limit, rates: byDefault.rates || sort === "rate" };
}

/** A duration within bounds, in ms. @throws ApiError */
export function durationOf(
  name: string,
  text: string,
  { least, most }: { readonly least: number; readonly most: number },
): number {
  const ms = accepted(name, parseDuration(text));
  if (ms >= least && ms <= most) return ms;
  throw new ApiError(400, `${name}: ${quote(text)}: give ${least / 1000}s to ${most / 1000}s`);
}

/** Ids with commas between them. @throws ApiError */
export function idsOf(text: string): ConnectionId[] {
  const ids = text.split(",").map((each) => accepted("id", parseConnectionId(each)));
  if (ids.length <= queryRowsMax) return ids;
  throw new ApiError(400, `id: there are ${ids.length}: give at most ${queryRowsMax}`);
}

type FieldType = "string" | "number" | "boolean";
type FieldsBy<Types extends Readonly<Record<string, FieldType>>> = {
  readonly [Name in keyof Types]?: {
    string: string;
    number: number;
    boolean: boolean;
  }[Types[Name]];
};

/** The fields of a JSON body, or of an empty one. @throws ApiError for any others */
export async function fieldsOf<const Types extends Readonly<Record<string, FieldType>>>(
  request: Request,
  types: Types,
): Promise<FieldsBy<Types>> {
  const text = await request.text();
  if (text.trim() === "") return {};
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new ApiError(400, "the body is not JSON");
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new ApiError(400, "the body is not an object");
  }
  for (const [name, value] of Object.entries(body)) {
    const type = Object.hasOwn(types, name) ? types[name] : undefined;
    if (type === undefined) {
      const names = Object.keys(types).join(", ");
      throw new ApiError(400, `${quote(name)} is no field here: give ${names}`);
    }
    if (typeof value !== type) throw new ApiError(400, `${name} is not a ${type}`);
  }
  return body as FieldsBy<Types>;
}
