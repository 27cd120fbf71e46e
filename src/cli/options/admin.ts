/** The options that name the admin socket: of a process that serves it, and of its clients. */

import { optional } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { prose } from "../prose.ts";
import { socketValue } from "./values.ts";

/** Where a process that serves can be asked and controlled. */
export const servedAdminOption = optional(
  option("--admin", socketValue(), {
    description: prose`Serve the admin API at this unix socket, for ${"tproxy status"} and the other
      commands that control a running process.`,
  }),
);

/** The process that a command asks or controls. */
export const adminOption = optional(
  option("--admin", socketValue(), {
    description: prose`The admin socket of the process; by default the first of ${"$TPROXY_ADMIN"},
      ${"/run/tproxy/admin.sock"} and ${"$XDG_RUNTIME_DIR/tproxy/admin.sock"} that can be opened.`,
  }),
);
