/** `tproxy drain`, `ready` and `down`: whether a service or an upstream gets connections. */

import { object } from "@optique/core/constructs";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { argument, command, constant, flag, option } from "@optique/core/primitives";
import { string } from "@optique/core/valueparser";
import { AdminClient } from "../../control/admin/client.ts";
import { drainPollMs } from "../../control/admin/limits.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus, UsageError } from "../../errors.ts";
import { printLine } from "../../net/printable.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { durationValue, numberValue } from "../options/values.ts";
import { prose } from "../prose.ts";

const nameField = inGroup("Arguments", {
  name: argument(string({ metavar: "NAME" }), {
    description: prose`A service, or an upstream as ${"POOL/UPSTREAM"}.`,
    errors: { endOfInput: prose`A NAME is missing: give a service, or POOL/UPSTREAM` },
  }),
});

const weightField = {
  weight: optional(
    option("--weight", numberValue("N", 0, 256), {
      description: prose`Also set the weight of the upstream.`,
    }),
  ),
};

const stopFields = {
  wait: optional(
    option("--wait", durationValue(), {
      description: prose`Wait until nothing is open there, for at most this long; the exit status is
        1 if something still is.`,
    }),
  ),
  force: withDefault(
    flag("--force", {
      description: prose`Even if no other upstream of the pool takes connections.`,
    }),
    false,
  ),
};

const processField = inGroup("Process", { admin: adminOption });

const drainFields = object({
  command: constant("drain"),
  ...nameField,
  ...inGroup("What to do", { ...weightField, ...stopFields }),
  ...processField,
});

const downFields = object({
  command: constant("down"),
  ...nameField,
  ...inGroup("What to do", { ...weightField, ...stopFields }),
  ...processField,
});

const readyFields = object({
  command: constant("ready"),
  ...nameField,
  ...inGroup("What to do", weightField),
  ...processField,
});

/** The command `drain` for the argument parser. */
export const drainCommand = command("drain", drainFields, {
  usageLine: usageLine("NAME [OPTIONS]"),
  brief: prose`Give a service or an upstream no new connections.`,
  description: prose`Open connections go on. An upstream is still checked. A service closes its
    listeners once its rule is gone, so that clients are refused. ${"tproxy ready"}
    undoes it.`,
  footer: examplesFooter([
    ["tproxy drain web/web1 --wait 5m", "before a server is restarted"],
    ["tproxy drain web", "a whole service"],
  ]),
});

/** The command `ready` for the argument parser. */
export const readyCommand = command("ready", readyFields, {
  usageLine: usageLine("NAME [OPTIONS]"),
  brief: prose`Give a service or an upstream connections again.`,
  footer: examplesFooter([
    ["tproxy ready web/web1", "after drain or down"],
    ["tproxy ready web/web1 --weight 50", "with half of its share"],
  ]),
});

/** The command `down` for the argument parser. */
export const downCommand = command("down", downFields, {
  usageLine: usageLine("NAME [OPTIONS]"),
  brief: prose`Treat an upstream as if it had failed, or end a service.`,
  description: prose`Like ${"tproxy drain"}. Open connections of a service are reset as well; those
    of an upstream where the pool has on-down = "close". ${"tproxy ready"} undoes it.`,
  footer: examplesFooter([["tproxy down web/web1", "a server that answers wrongly"]]),
});

type StopOptions = InferValue<typeof drainFields> | InferValue<typeof downFields>;

/** Runs `drain` or `down`; the exit status. @throws UsageError, CommandError */
export async function runDrain(options: StopOptions, io: ProcessIo): Promise<number> {
  const { name, weight, wait, force, admin } = options;
  const client = new AdminClient(admin);
  await set(client, name, { state: options.command, weight, force });
  void io.stdout.write(`${printLine(name)}: ${options.command === "down" ? "down" : "draining"}\n`);
  if (wait === undefined) return exitStatus.success;
  return await untilEmpty(client, name, wait, io);
}

/** Runs `ready`; the exit status. @throws UsageError, CommandError */
export async function runReady(
  { name, weight, admin }: InferValue<typeof readyFields>,
  io: ProcessIo,
): Promise<number> {
  await set(new AdminClient(admin), name, { state: "ready", weight });
  void io.stdout.write(`${printLine(name)}: ready\n`);
  return exitStatus.success;
}

interface Wanted {
  readonly state: "drain" | "down" | "ready";
  readonly weight: number | undefined;
  readonly force?: boolean;
}

async function set(client: AdminClient, name: string, wanted: Wanted): Promise<void> {
  const upstream = upstreamPath(name);
  if (upstream !== undefined) {
    await client.request("PATCH", `/v1/pools/${upstream.join("/upstreams/")}`, wanted);
    return;
  }
  if (wanted.weight !== undefined)
    throw new UsageError("--weight is for an upstream: POOL/UPSTREAM");
  const state = wanted.state === "drain" ? "drained" : wanted.state;
  await client.request("PATCH", `/v1/services/${encodeURIComponent(name)}`, { state });
}

/** The two names of an upstream, escaped; undefined for a service. The first "/" parts them. */
function upstreamPath(name: string): [pool: string, upstream: string] | undefined {
  const slash = name.indexOf("/");
  if (slash < 0) return undefined;
  return [encodeURIComponent(name.slice(0, slash)), encodeURIComponent(name.slice(slash + 1))];
}

/** Shows what is left until nothing is, or the time is over. */
async function untilEmpty(
  client: AdminClient,
  name: string,
  ms: number,
  { stdout }: ProcessIo,
): Promise<number> {
  const until = performance.now() + ms;
  const slash = name.indexOf("/");
  const parameters = new URLSearchParams(
    slash < 0 ? { service: name } : { pool: name.slice(0, slash), upstream: name.slice(slash + 1) },
  );
  parameters.set("limit", "0");
  let shown = -1;
  for (;;) {
    const answer = await client.request("GET", `/v1/connections?${parameters}`);
    const { matched } = answer as { readonly matched: number };
    if (matched !== shown) void stdout.write(`${matched} open\n`);
    shown = matched;
    if (matched === 0) return exitStatus.success;
    const left = until - performance.now();
    if (left <= 0) return exitStatus.failure;
    await Bun.sleep(Math.min(left, drainPollMs));
  }
}
