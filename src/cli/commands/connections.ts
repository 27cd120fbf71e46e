/** `tproxy connections`: the open connections and sessions of a running process. */

import { object } from "@optique/core/constructs";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag, option } from "@optique/core/primitives";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus } from "../../errors.ts";
import { printJson } from "../../net/printable.ts";
import { sortKeys } from "../../workers/query.ts";
import { queryRowsMax } from "../../workers/scan-limits.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { filterFields, filterParameters } from "../options/filter.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { numberValue, wordValue } from "../options/values.ts";
import { prose } from "../prose.ts";
import { type Column, tableText } from "../table.ts";
import type { Connection } from "../top/data.ts";
import { bytesText, rateText, timeText } from "../words/amounts.ts";

const fields = object({
  command: constant("connections"),
  ...filterFields,
  ...inGroup("Output", {
    sort: optional(
      option("--sort", wordValue("rate|bytes|age|idle", sortKeys), {
        description: prose`The largest first, ${"age"} by default. ${"rate"} is measured for half a
          second.`,
      }),
    ),
    limit: withDefault(
      option("--limit", numberValue("N", 1, queryRowsMax), {
        description: prose`Show at most N; 50 by default.`,
      }),
      50,
    ),
    json: withDefault(
      flag("--json", { description: prose`Print one JSON object, with amounts in bytes and ms.` }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
});

/** The command `connections` for the argument parser. */
export const connectionsCommand = command("connections", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Show the open connections and sessions of a running process.`,
  description: prose`Asks the process that serves, which filters and sorts where the connections
    are. The exit status is 3 if no process runs.`,
  footer: examplesFooter([
    ["tproxy connections", "the oldest 50"],
    ["tproxy connections --sort rate --limit 10", "who uses the line"],
    ["tproxy connections --client 192.0.2.0/24 --idle 5m", "silent ones of a network"],
  ]),
});

/** Runs `connections`; the exit status. @throws UsageError, CommandError */
export async function runConnections(
  { admin, sort, limit, json, ...filter }: InferValue<typeof fields>,
  { stdout }: ProcessIo,
): Promise<number> {
  const parameters = filterParameters(filter);
  parameters.set("limit", String(limit));
  if (sort !== undefined) parameters.set("sort", sort);
  const answer = await new AdminClient(admin).request("GET", `/v1/connections?${parameters}`);
  if (json) {
    void stdout.write(`${printJson(answer)}\n`);
    return exitStatus.success;
  }
  const { total, matched, connections } = answer as {
    readonly total: number;
    readonly matched: number;
    readonly connections: readonly Connection[];
  };
  void stdout.write(connectionsTable(connections, stdout.columns));
  const shown = connections.length;
  const of = matched === total ? `${total} open` : `${matched} that match, ${total} open`;
  void stdout.write(`${shown} of ${of}\n`);
  return exitStatus.success;
}

function connectionsTable(rows: readonly Connection[], room: number | undefined): string {
  const hasRates = rows.some(({ client_rate }) => client_rate !== undefined);
  const columns: Column[] = [
    { title: "ID" },
    { title: "SERVICE", isOptional: true },
    { title: "CLIENT" },
    { title: "ORIGINAL" },
    { title: "UPSTREAM", isOptional: true },
    { title: "STATE" },
    { title: "AGE", align: "right" },
    { title: "IDLE", align: "right", isOptional: true },
    { title: hasRates ? "OUT/s" : "OUT", align: "right" },
    { title: hasRates ? "IN/s" : "IN", align: "right" },
  ];
  const cells = rows.map((row) => [
    row.id,
    row.service ?? "",
    `${row.protocol} ${row.client}`,
    row.original_destination,
    [row.upstream_name, row.upstream].filter((each) => each !== undefined).join(" "),
    row.state,
    timeText(row.ms),
    timeText(row.idle_ms),
    hasRates ? rateText(row.client_rate ?? 0) : bytesText(row.client_bytes),
    hasRates ? rateText(row.upstream_rate ?? 0) : bytesText(row.upstream_bytes),
  ]);
  return tableText(columns, cells, room);
}
