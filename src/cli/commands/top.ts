/** `tproxy top`: what a running process does, live on a terminal. */

import { object } from "@optique/core/constructs";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag, option } from "@optique/core/primitives";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus } from "../../errors.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { wordValue } from "../options/values.ts";
import { prose } from "../prose.ts";
import type { LogLine, Status } from "../top/data.ts";
import { TopModel } from "../top/model.ts";
import { renderOnce } from "../top/render.ts";
import { TopSession } from "../top/session.ts";
import { views } from "../top/views.ts";

const fields = object({
  command: constant("top"),
  ...inGroup("Output", {
    view: optional(
      option("--view", wordValue("services|upstreams|connections|log", views), {
        description: prose`Begin with this view; ${"services"} by default. Keys change it.`,
      }),
    ),
    once: withDefault(
      flag("--once", {
        description: prose`Print the tables once, with rates of one second, and exit. So does
          ${"top"} where its output is no terminal.`,
      }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
});

/** The command `top` for the argument parser. */
export const topCommand = command("top", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Watch the services, upstreams and connections of a running process.`,
  description: prose`Shows new figures every second. ${"1"} to ${"4"} choose services, upstreams,
    connections or the log, ${"?"} lists all keys, ${"q"} quits. The exit status is 3 if no process
    runs.`,
  footer: examplesFooter([
    ["tproxy top", "everything, live"],
    ["tproxy top --once --view connections", "the busiest connections, as text"],
  ]),
});

/** Runs `top`; the exit status. @throws UsageError, CommandError */
export async function runTop(
  { admin, view, once }: InferValue<typeof fields>,
  io: ProcessIo,
): Promise<number> {
  const client = new AdminClient(admin);
  const hasScreen = io.stdout.isTerminal && process.stdin.isTTY === true;
  if (once || !hasScreen) return await printOnce(client, view, io);
  const model = new TopModel(view ?? "services");
  return await new TopSession(client, model, io).run();
}

/** Two statuses, for the rates between them. */
async function printOnce(
  client: AdminClient,
  view: (typeof views)[number] | undefined,
  { stdout }: ProcessIo,
): Promise<number> {
  const model = new TopModel(view ?? "services");
  const shown = view === undefined ? views.filter((each) => each !== "log") : [view];
  if (shown.includes("log")) {
    const { lines } = (await client.request("GET", "/v1/log")) as { lines: LogLine[] };
    for (const line of lines) model.add(line);
  }
  let count = 0;
  for await (const { event, data } of client.events("/v1/events?every=1s")) {
    if (event !== "status") continue;
    model.update(data as Status);
    if (++count === 2) break;
  }
  void stdout.write(renderOnce(model, shown, stdout.columns));
  return exitStatus.success;
}
