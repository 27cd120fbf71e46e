/** Where the admin API is served, complete. Pure. */

import type { Settings } from "./settings.ts";

/** Where the admin API is served, and for whom. */
export interface AdminConfiguration {
  /** Undefined: nobody has set it, and the places that commands look at are tried. */
  readonly socket: string | "none" | undefined;
  readonly mode: number;
  /** Undefined: `tproxy`, if there is one. */
  readonly group: string | number | undefined;
  /** Undefined: there is none. */
  readonly readOnlySocket: string | undefined;
}

const builtInMode = 0o660;

/** Fills in the defaults. */
export function completeAdmin({ admin = {} }: Settings): AdminConfiguration {
  const readOnly = admin["read-only-socket"];
  return {
    socket: admin.socket,
    mode: admin.mode ?? builtInMode,
    group: admin.group,
    readOnlySocket: readOnly === "none" ? undefined : readOnly,
  };
}
