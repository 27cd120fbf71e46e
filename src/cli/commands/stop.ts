/** `tproxy stop`: ends a running process. */

import { object } from "@optique/core/constructs";
import { withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag } from "@optique/core/primitives";
import { AdminClient } from "../../control/admin/client.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { exitStatus } from "../../errors.ts";
import { examplesFooter } from "../examples.ts";
import { adminOption } from "../options/admin.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { prose } from "../prose.ts";

const fields = object({
  command: constant("stop"),
  ...inGroup("Process", {
    now: withDefault(
      flag("--now", { description: prose`Reset open connections instead of waiting for them.` }),
      false,
    ),
    admin: adminOption,
  }),
});

/** The command `stop` for the argument parser. */
export const stopCommand = command("stop", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`End a running process.`,
  description: prose`The process accepts nothing more, and ends once its open connections have
    ended, or after its drain time-out. The command does not wait for that. Where a service manager
    runs the process, stop it there: it may start it again.`,
  footer: examplesFooter([["tproxy stop", "the same as SIGTERM"]]),
});

/** Runs `stop`; the exit status. @throws CommandError */
export async function runStop(
  { now, admin }: InferValue<typeof fields>,
  { stdout }: ProcessIo,
): Promise<number> {
  await new AdminClient(admin).request("POST", "/v1/stop", { now });
  void stdout.write("stopping\n");
  return exitStatus.success;
}
