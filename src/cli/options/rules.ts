/** The options of `routes` that act on the running system. */

import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { flag, option } from "@optique/core/primitives";
import { UsageError } from "../../errors.ts";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { durationValue, wordValue } from "./values.ts";

/** The fields for `object({ … })`. */
export const ruleFields = {
  ...inGroup("What to do", {
    print: withDefault(
      flag("--print", { description: prose`Print the commands; change nothing.` }),
      false,
    ),
    apply: withDefault(
      flag("--apply", {
        description: prose`Apply the rules by netlink, all of them or none. What is in place already
          stays.`,
      }),
      false,
    ),
    check: withDefault(
      flag("--check", {
        description: prose`Compare the running system with the rules; the exit status is 1 if they
          differ.`,
      }),
      false,
    ),
    remove: withDefault(
      flag("--remove", {
        description: prose`Remove exactly what was applied and is still there. Without options about
          what to capture, remove all that tproxy has applied on this host.`,
      }),
      false,
    ),
    confirm: withDefault(
      flag("--confirm", {
        description: prose`Keep the set-up that ${"--rollback-after"} would
        remove.`,
      }),
      false,
    ),
  }),
  ...inGroup("How to do it", {
    hold: withDefault(
      flag("--hold", {
        description: prose`With ${"--apply"}: keep running, restore what others flush, and remove
          everything at the end. The kernel removes the firewall table even if the process is
          killed.`,
      }),
      false,
    ),
    onExit: optional(
      option("--on-exit", wordValue("open|closed", ["open", "closed"]), {
        description: prose`With ${"--hold"}: what happens to captured traffic afterwards. ${"open"}
          (the default): it takes its usual route. ${"closed"}: it is dropped until ${"--remove"}.`,
      }),
    ),
    rollbackAfter: optional(
      option("--rollback-after", durationValue(), {
        description: prose`With ${"--apply"}: remove everything after this time, unless
          ${"tproxy routes --confirm"} runs before. It protects you from locking yourself out.`,
      }),
    ),
    force: withDefault(
      flag("--force", { description: prose`With ${"--apply"}: go on despite conflicts.` }),
      false,
    ),
    json: withDefault(
      flag("--json", {
        description: prose`With ${"--check"}: print
      JSON.`,
      }),
      false,
    ),
  }),
} as const;

/** The options once parsed. */
export type RuleOptions = {
  readonly [Name in keyof typeof ruleFields]: InferValue<(typeof ruleFields)[Name]>;
};

/** Whether the options ask for an action in the running system. */
export function isLiveAction({ apply, check, remove, confirm }: RuleOptions): boolean {
  return apply || check || remove || confirm;
}

/** The options about printing, once parsed. */
interface PrintOptions {
  readonly dialect: string | undefined;
  readonly undo: boolean;
}

/** Rejects options that would be ignored: `--apply --undo` must not apply. @throws UsageError */
export function checkModifiers(
  options: RuleOptions & PrintOptions,
  action: "print" | "apply" | "check" | "remove" | "confirm",
): void {
  const { hold, onExit, rollbackAfter, force, json, dialect, undo } = options;
  const removes = action === "remove" ? "" : ', or give "--remove"';
  const printsJson = action === "print" ? ', or give "--dialect json"' : "";
  const modifiers = [
    { name: "--hold", given: hold, owner: "apply" },
    { name: "--on-exit", given: onExit !== undefined, owner: "apply" },
    { name: "--rollback-after", given: rollbackAfter !== undefined, owner: "apply" },
    { name: "--force", given: force, owner: "apply" },
    { name: "--json", given: json, owner: "check", instead: printsJson },
    { name: "--dialect", given: dialect !== undefined, owner: "print" },
    { name: "--undo", given: undo, owner: "print", instead: removes },
  ];
  for (const { name, given, owner, instead = "" } of modifiers) {
    if (!given || owner === action) continue;
    throw new UsageError(`${name} needs --${owner}, not --${action}: leave it out${instead}`);
  }
  if (onExit !== undefined && !hold) {
    throw new UsageError("--on-exit needs --hold");
  }
  if (rollbackAfter === 0) {
    throw new UsageError('--rollback-after "0s" leaves no time to confirm: give "30s"');
  }
}
