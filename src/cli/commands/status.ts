/** `tproxy status`: what a running process serves. */

import { object } from "@optique/core/constructs";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import { AdminClient } from "../../control/admin/client.ts";
import { statusPauseMs } from "../../control/admin/limits.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import { printJson } from "../../net/printable.ts";
import { quote } from "../../net/result.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";
import { isDown, only, type StatusView, statusText } from "../words/status.ts";

const fields = object({
  command: constant("status"),
  ...inGroup("Arguments", {
    name: optional(
      argument(string({ metavar: "NAME" }), {
        description: prose`A service, a pool, or an upstream as ${"POOL/UPSTREAM"}: only this one.`,
      }),
    ),
  }),
  ...inGroup("Output", {
    json: withDefault(
      flag("--json", { description: prose`Print one JSON object, with counters since the start.` }),
      false,
    ),
  }),
  ...inGroup("Process", { admin: adminOption }),
});

/** The command `status` for the argument parser. */
export const statusCommand = command("status", fields, {
  usageLine: usageLine("[NAME] [OPTIONS]"),
  brief: prose`Show the services, pools and upstreams of a running process.`,
  description: prose`Rates are those of half a second. The exit status is 0 if all is up, 1 if a
    service has no upstream or an upstream is down, and 3 if no process runs.`,
  footer: examplesFooter([
    ["tproxy status", "everything"],
    ["tproxy status web", "one service or pool"],
    ["tproxy status --json | jq .services", "for programs"],
  ]),
});

/** Runs `status`; the exit status. @throws UsageError, CommandError */
export async function runStatus(
  { name, json, admin }: InferValue<typeof fields>,
  { stdout }: ProcessIo,
): Promise<number> {
  const client = new AdminClient(admin);
  const load = async () => (await client.request("GET", "/v1/status")) as StatusView;
  const first = await load();
  const shown = chosen(first, name);
  if (json) void stdout.write(`${printJson(shown)}\n`);
  else {
    const since = performance.now();
    await Bun.sleep(statusPauseMs);
    const second = chosen(await load(), name);
    const seconds = (performance.now() - since) / 1000;
    void stdout.write(statusText(second, { before: shown, seconds }, stdout.columns));
  }
  return isDown(shown) ? exitStatus.failure : exitStatus.success;
}

/** @throws UsageError for an unknown name */
function chosen(status: StatusView, name: string | undefined): StatusView {
  if (name === undefined) return status;
  const found = only(status, name);
  if (found !== undefined) return found;
  const names = [...status.services, ...status.pools].map((each) => each.name);
  const known = [...new Set(names)].slice(0, 10).join(", ");
  throw new UsageError(`there is no service or pool ${quote(name)}: there is ${known}`);
}
