/** `tproxy routes`: the commands that bring packets for other hosts to a listener on this one. */

import { object } from "@optique/core/constructs";
import { optionName } from "@optique/core/message";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag, option } from "@optique/core/primitives";
import { parseIntent } from "../../capture/plan/intent.ts";
import { makePlan, type Plan } from "../../capture/plan/plan.ts";
import { renderIptables } from "../../capture/render/iptables.ts";
import { renderJson } from "../../capture/render/json.ts";
import { renderNft } from "../../capture/render/nft.ts";
import { UsageError } from "../../errors.ts";
import { examplesFooter } from "../examples.ts";
import { captureFields, toRequest } from "../options/capture.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { checkModifiers, ruleFields } from "../options/rules.ts";
import { wordValue } from "../options/values.ts";
import { prose } from "../prose.ts";
import { planLine } from "../words/plan.ts";

const dialects = { iptables: renderIptables, nft: renderNft, json: renderJson } as const;

const fields = object({
  command: constant("routes"),
  ...ruleFields,
  ...inGroup("How to do it", {
    dialect: optional(
      option("--dialect", wordValue("iptables|nft|json", ["iptables", "nft", "json"]), {
        description: prose`What to print: a shell script with iptables (the default), an nft script,
          or the plan as JSON.`,
      }),
    ),
    undo: withDefault(
      flag("--undo", {
        description: prose`Print the commands that undo
      it exactly.`,
      }),
      false,
    ),
  }),
  ...captureFields,
});

const footer = examplesFooter([
  ["tproxy routes --print", "tcp to 8.8.8.8 through lo, in three commands"],
  ["tproxy routes --print --dst 8.8.8.8 --in eth1 | sudo sh", "apply it at once"],
  ["tproxy routes --print --dport 80,443 --to-port 50080 --dialect nft", "TPROXY to one port"],
  ["tproxy routes --print --dst @networks.txt --bypass-private", "networks from a file"],
  [
    "tproxy routes --print --local --guard-uid www-data --to-port 50080",
    "what this host sends, too",
  ],
  ["tproxy routes --print --dport 80 --backend 192.0.2.7:80", "with what the backend needs"],
  ["sudo tproxy routes --apply --reply-path", "for nginx with proxy_bind: captures nothing"],
  ["tproxy routes --print --dst 8.8.8.8 --in eth1 --undo | sudo sh", "take it back"],
  ["sudo tproxy routes --apply --dport 80 --to-port 50080", "the same without a script"],
  ["sudo tproxy routes --apply --hold --dport 80 --to-port 50080", "while this process lives"],
  ["sudo tproxy routes --remove", "take back all that tproxy applied"],
]);

/** The command `routes` for the argument parser. */
export const routesCommand = command("routes", fields, {
  usageLine: usageLine("--print|--apply|--check|--remove|--confirm [OPTIONS]"),
  brief: prose`Print, apply, check or remove the rules and routes of a transparent proxy.`,
  description: prose`Prints a script that brings packets for other hosts to a listener on this one,
    or with ${optionName("--undo")} the script that removes it again. ${optionName("--apply")},
    ${optionName("--check")} and ${optionName("--remove")} act on the running system themselves.
    Without options about what to capture, it is TCP to 8.8.8.8 through lo. If you give any of
    ${optionName("--dst")}, ${optionName("--src")}, ${optionName("--dport")}, ${optionName("--in")},
    ${optionName("--proto")}, ${optionName("--family")}, ${optionName("--bypass")} or
    ${optionName("--local")}, only those count. With ${optionName("--reply-path")} or
    ${optionName("--backend")}, and of these at most ${optionName("--proto")} or
    ${optionName("--family")}, nothing is captured. Options that take lists accept commas and may be
    repeated.`,
  footer,
});

/** The options of `routes` once parsed. */
export type RoutesOptions = InferValue<typeof fields>;

/** Where a command writes; injected, so that tests can read it. */
export interface Output {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
}

/** Runs `routes` and returns the exit status. Throws UsageError for options that conflict. */
export function runRoutes(options: RoutesOptions, out: Output): number {
  if (!options.print) {
    throw new UsageError(
      "routes has nothing to do: give --print, which prints the commands and changes nothing, or " +
        "--apply, --check, --remove or --confirm",
    );
  }
  checkModifiers(options, "print");
  const intent = parseIntent(toRequest(options, (line) => out.stderr(`tproxy: ${line}\n`)));
  if (!intent.ok) throw new UsageError(planLine(intent.issue));
  const render: (plan: Plan, how: { undo: boolean }) => string =
    dialects[options.dialect ?? "iptables"];
  out.stdout(render(makePlan(intent.value), { undo: options.undo }));
  return 0;
}
