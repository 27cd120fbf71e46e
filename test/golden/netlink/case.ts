/** A command of a program, and the messages that tproxy makes for the same. */

import type { Message } from "../../../ffi/netlink/wire.ts";

export interface Case {
  readonly command: string;
  /** Commands that must come before, not recorded. */
  readonly setup?: string;
  readonly messages: readonly Message[];
  /** For messages that differ in what does not count: they decode to the same. */
  readonly sameAs?: { readonly decode: (body: Uint8Array) => unknown; readonly because: string };
}
