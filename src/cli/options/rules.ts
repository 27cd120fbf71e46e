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
      flag("--print", { description: prose`Print the commands; nothing is changed.` }),
      false,
    ),
    apply: withDefault(
      flag("--apply", {
        description: prose`Do what the commands would, by netlink: all of it or nothing. What is in
        place already is left as it is.`,
      }),
      false,
    ),
    check: withDefault(
      flag("--check", {
        description: prose`Compare the running system with it; exit status 1 if they differ.`,
      }),
      false,
    ),
    remove: withDefault(
      flag("--remove", {
        description: prose`Take back exactly what was applied, as far as it is still there. With no
        option about what to capture, all that tproxy has ever applied here.`,
      }),
      false,
    ),
    confirm: withDefault(
      flag("--confirm", { description: prose`Keep what ${"--rollback-after"} would take back.` }),
      false,
    ),
  }),
  ...inGroup("How to do it", {
    hold: withDefault(
      flag("--hold", {
        description: prose`With ${"--apply"}: stay, put back what others flush, and take everything
        back at the end. The firewall table goes with the process, however it dies.`,
      }),
      false,
    ),
    onExit: optional(
      option("--on-exit", wordValue("open|closed", ["open", "closed"]), {
        description: prose`With ${"--hold"}: what was captured goes its own way afterwards, which is
        the default, or with ${"closed"} is dropped until ${"--remove"}.`,
      }),
    ),
    rollbackAfter: optional(
      option("--rollback-after", durationValue(), {
        description: prose`With ${"--apply"}: take everything back after this time, unless
        ${"tproxy routes --confirm"} is run before. For people who might lock themselves out.`,
      }),
    ),
    force: withDefault(
      flag("--force", { description: prose`With ${"--apply"}: go on in spite of conflicts.` }),
      false,
    ),
    json: withDefault(flag("--json", { description: prose`With ${"--check"}: as JSON.` }), false),
  }),
} as const;

/** The options once parsed. */
export type RuleOptions = {
  readonly [Name in keyof typeof ruleFields]: InferValue<(typeof ruleFields)[Name]>;
};

/** Whether the options ask for something in the running system. */
export function isLiveAction({ apply, check, remove, confirm }: RuleOptions): boolean {
  return apply || check || remove || confirm;
}

/** The options that say how something is printed, once parsed. */
interface PrintOptions {
  readonly dialect: string | undefined;
  readonly undo: boolean;
}

/** Refuses what would be ignored: `--apply --undo` must not apply. @throws UsageError */
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
    throw new UsageError(
      `${name} belongs to --${owner}, not to --${action}: leave it out${instead}`,
    );
  }
  if (onExit !== undefined && !hold) {
    throw new UsageError("--on-exit says what becomes of a held set-up: give --hold as well");
  }
  if (rollbackAfter === 0) {
    throw new UsageError('--rollback-after "0s" is over at once: give "30s"');
  }
}
