/** `tproxy kill`: ends connections and sessions of a running process. */

import { object } from "@optique/core/constructs";
import { multiple, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag } from "@optique/core/primitives";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import { printJson } from "../../net/printable.ts";
import {
  type ConnectionId,
  formatConnectionId,
  parseConnectionId,
} from "../../workers/connection-id.ts";
import { killUnaskedMax, queryRowsMax } from "../../workers/scan-limits.ts";
import { askYesNo } from "../ask.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { filterFields, filterParameters } from "../options/filter.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { makeValue } from "../options/values.ts";
import { prose } from "../prose.ts";

const idValue = makeValue({
  metavar: "ID",
  placeholder: { worker: 1, sequence: 1, generation: 1 },
  parse: parseConnectionId,
  format: formatConnectionId,
});

const fields = object({
  command: constant("kill"),
  ...inGroup("Arguments", {
    ids: multiple(
      argument(idValue, {
        description: prose`A connection or session, ${"1.42.1"}, as the log and
          ${"tproxy connections"} show it.`,
      }),
    ),
  }),
  ...filterFields,
  ...inGroup("Process", {
    yes: withDefault(
      flag("--yes", { description: prose`End more than 100 without asking.` }),
      false,
    ),
    admin: adminOption,
  }),
  ...inGroup("Output", {
    json: withDefault(flag("--json", { description: prose`Print a JSON object.` }), false),
  }),
});

/** The command `kill` for the argument parser. */
export const killCommand = command("kill", fields, {
  usageLine: usageLine("ID...|FILTER [OPTIONS]"),
  brief: prose`End connections and sessions of a running process.`,
  description: prose`Resets both sides of each connection, and ends each session; prints how many
    there were. The exit status is 1 if there was none, and 3 if no process runs.`,
  footer: examplesFooter([
    ["tproxy kill 1.42.1", "one connection"],
    ["tproxy kill --client 198.51.100.7", "all of a client"],
    ["tproxy kill --upstream web1 --older 1h --yes", "old ones of a server, without a question"],
  ]),
});

/** Runs `kill`; the exit status. @throws UsageError, CommandError */
export async function runKill(
  { ids, admin, yes, json, ...filter }: InferValue<typeof fields>,
  io: ProcessIo,
): Promise<number> {
  const parameters = filterParameters(filter);
  const hasFilter = parameters.size > 0;
  if (ids.length === 0 && !hasFilter) {
    throw new UsageError("kill needs an ID or a filter, such as --client 192.0.2.7");
  }
  if (ids.length > 0 && hasFilter) {
    throw new UsageError("IDs and a filter exclude each other: give one of them");
  }
  if (ids.length > queryRowsMax) throw new UsageError(`give at most ${queryRowsMax} IDs`);
  const client = new AdminClient(admin);
  if (hasFilter && !yes && !(await mayKill(client, parameters, io))) return exitStatus.failure;
  let ended = 0;
  const targets = hasFilter ? [`?${parameters}`] : idLists(ids);
  for (const target of targets) {
    const answer = await client.request("DELETE", `/v1/connections${target}`);
    ended += (answer as { readonly ended: number }).ended;
  }
  void io.stdout.write(json ? `${printJson({ ended })}\n` : `${ended} ended\n`);
  return ended > 0 ? exitStatus.success : exitStatus.failure;
}

/** The ends of paths with all ids, each short enough for a request. */
function idLists(ids: readonly ConnectionId[]): string[] {
  const lists: string[] = [];
  for (let from = 0; from < ids.length; from += idsPerRequest) {
    const part = ids.slice(from, from + idsPerRequest);
    lists.push(`/${part.map(formatConnectionId).join(",")}`);
  }
  return lists;
}

const idsPerRequest = 200;

/** Asks if they are many. @throws UsageError where nobody can be asked */
async function mayKill(
  client: AdminClient,
  parameters: URLSearchParams,
  io: ProcessIo,
): Promise<boolean> {
  const query = new URLSearchParams(parameters);
  query.set("limit", "0");
  const answer = await client.request("GET", `/v1/connections?${query}`);
  const { matched } = answer as { readonly matched: number };
  if (matched <= killUnaskedMax) return true;
  const isYes = await askYesNo(`End ${matched} connections?`, io);
  if (isYes !== undefined) return isYes;
  throw new UsageError(`this would end ${matched} connections: give --yes`);
}
