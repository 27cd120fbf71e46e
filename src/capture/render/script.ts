/** The common parts of all dialects' scripts: frame, quoting and the commands of `ip`. */

import { formatAddress } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import type { IpRule, LocalRoute, Plan } from "../plan/plan.ts";
import { backendLines } from "./backend.ts";
import { describeFamilies, describeIpRule, describeRoute, plainMark } from "./describe.ts";

/** Commands under one comment; the comment's lines come without their `#`. */
export interface Section {
  readonly comment: readonly string[];
  readonly commands: readonly string[];
}

/**
 * One word of a shell command, in quotes if the shell could read anything into it. Everything that
 * reaches a script has been checked before; this is the second lock.
 */
function word(text: string): string {
  if (text === "!" || /^[A-Za-z0-9_.,:/@%+=-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A command line out of words; undefined ones are left out. */
export function line(...words: readonly (string | number | undefined)[]): string {
  return words
    .filter((part) => part !== undefined)
    .map((part) => word(String(part)))
    .join(" ");
}

/**
 * The script that puts a plan in place: it stops at the first command that fails. The needs of a
 * backend follow in comments. `origin` has the command that prints it, and a sentence about the
 * command that undoes it.
 */
export function applyScript(
  plan: Plan,
  sections: readonly Section[],
  origin = {
    command: "tproxy routes --print",
    undo: "`tproxy routes --print --undo` with the same options prints the script that removes it.",
  },
): string {
  const head = [
    "#!/bin/sh",
    ...purposeOf(plan).map((text) => `# ${text}`),
    "# Stops at the first command that fails.",
    `# Printed by \`${origin.command}\`. Run it as root.`,
    `# ${origin.undo}`,
    "set -e",
  ];
  return frame(head, sections, backendLines(plan, false));
}

/** Describes the purpose of a script in two lines. */
function purposeOf(plan: Plan): readonly string[] {
  const families = describeFamilies(plan.families);
  if (isKernelPath(plan)) {
    return [
      `Has the kernel carry ${families} connections to their upstreams by NAT; no process takes`,
      "part in it.",
    ];
  }
  if (plan.routes.length === 0) {
    return [
      `Sends captured ${families} packets to a listener on this host, by NAT;`,
      "SO_ORIGINAL_DST tells it where they were sent to.",
    ];
  }
  if (!capturesAny(plan)) {
    return [
      `Captures nothing: delivers ${families} replies to the connections that a proxy of this host`,
      "makes with the addresses of its clients.",
    ];
  }
  return [
    `Delivers captured ${families} packets to this host, whatever their destination;`,
    "a listener that has set IP_TRANSPARENT accepts them.",
  ];
}

/** Whether a plan captures anything, or delivers replies alone. */
function capturesAny({ firewall }: Plan): boolean {
  return firewall.chains.some(({ rules }) => rules.some(({ purpose }) => purpose === "capture"));
}

/** Whether the kernel carries connections by itself. */
function isKernelPath({ firewall }: Plan): boolean {
  return firewall.objects !== undefined;
}

/** The effect that begins with the last command of a script. */
export function beginning(plan: Plan): string {
  if (isKernelPath(plan)) return "From here on connections are carried";
  return `From here on ${capturesAny(plan) ? "packets are captured" : "replies are delivered"}`;
}

/** The effect that ends with the first command of an undo script. */
export function ending(plan: Plan): string {
  if (isKernelPath(plan)) return "From here on nothing is carried.";
  return `From here on nothing is ${capturesAny(plan) ? "captured" : "delivered"}.`;
}

/**
 * The script that takes a plan back: it removes all that is there, also after a command has
 * failed, and its exit status is then 1.
 */
export function undoScript(plan: Plan, sections: readonly Section[]): string {
  const families = describeFamilies(plan.families);
  const captured = capturesAny(plan) ? "captured " : "";
  const what = isKernelPath(plan)
    ? `carries ${families} connections to their upstreams`
    : `delivers ${captured}${families} packets to this host`;
  const head = [
    "#!/bin/sh",
    `# Takes back what ${what}.`,
    "# It removes all that it finds; if anything was missing, its exit status is 1.",
    "# Printed by `tproxy routes --print --undo`. Run it as root.",
    "status=0",
  ];
  return frame(head, sections, [...backendLines(plan, true), 'exit "$status"']);
}

/** A script of a head, sections and single lines at the end, with a blank line between them. */
function frame(head: readonly string[], sections: readonly Section[], foot: readonly string[]) {
  const blocks = sections.map(({ comment, commands }) =>
    [...comment.map((text) => `# ${text}`), ...commands].join("\n"),
  );
  return `${[head.join("\n"), ...blocks, ...foot].join("\n\n")}\n`;
}

/** A command of an undo script: its failure is remembered and does not stop the script. */
export function tolerant(command: string): string {
  return `${command} || status=1`;
}

/** The sysctls, the routes and then the rules of a plan. */
export function ipSections(plan: Plan): readonly Section[] {
  return [
    ...sysctlSections(plan),
    ...plan.routes.map((route) => section(describeRoute(route), routeLine("add", route))),
    ...plan.ipRules.map((rule) => ({
      comment: describeIpRule(rule),
      commands: [ruleLine("add", rule)],
    })),
  ];
}

/** The commands that undo it, in the opposite order. */
export function ipUndoSections(plan: Plan): readonly Section[] {
  const rules = plan.ipRules.toReversed().map((rule) => ruleLine("del", rule));
  const routes = plan.routes.toReversed().map((route) => routeLine("del", route));
  const commands = [...rules, ...routes].map(tolerant);
  const section = { comment: ["The ip rules and the routes."], commands };
  return [...(commands.length === 0 ? [] : [section]), ...sysctlUndoSections(plan)];
}

/** Where a script keeps what the settings were, for the other one to restore. */
function sysctlFile(plan: Plan): string {
  return `/run/${plan.firewall.name}.sysctl`;
}

/** The settings of a plan, saved and then set; or what to set, in comments alone. */
function sysctlSections(plan: Plan): readonly Section[] {
  const file = sysctlFile(plan);
  const settings = plan.sysctls.map(({ name, value, reason }) => ({
    name,
    reason,
    set: line("sysctl", "-q", "-w", `${name}=${value}`),
  }));
  if (settings.length === 0) return [];
  const reasons = [...new Set(settings.map(({ reason }) => reason))].flatMap(wrap);
  if (!plan.setsSysctls) {
    const comment = [...reasons, ...settings.map(({ set }) => `  ${set}`)];
    return [{ comment, commands: [] }];
  }
  return [
    {
      comment: [...reasons, "Keeps the present values for the script that removes it."],
      commands: [
        line("test", "!", "-e", file),
        `${line("sysctl", ...settings.map(({ name }) => name))} > ${file}`,
        ...settings.map(({ set }) => set),
      ],
    },
  ];
}

/** A sentence as lines of at most 98 characters, which leaves room for the `# `. */
function wrap(sentence: string): readonly string[] {
  return sentence.match(/.{1,98}(?:\s|$)/g)?.map((text) => text.trim()) ?? [];
}

function sysctlUndoSections(plan: Plan): readonly Section[] {
  if (!plan.setsSysctls || plan.sysctls.length === 0) return [];
  const file = sysctlFile(plan);
  return [
    {
      comment: ["The settings as they were."],
      commands: [tolerant(`${line("sysctl", "-q", "-p", file)} && ${line("rm", file)}`)],
    },
  ];
}

function section(comment: string, command: string): Section {
  return { comment: [comment], commands: [command] };
}

function routeLine(verb: "add" | "del", route: LocalRoute): string {
  const { device, table } = route;
  return line(
    ...ip(route.family),
    "route",
    verb,
    "local",
    formatCidr(route.destination),
    "dev",
    device,
    "table",
    table,
    ...option("protocol", route.protocol),
  );
}

function ruleLine(verb: "add" | "del", rule: IpRule): string {
  return line(
    ...ip(rule.family),
    "rule",
    verb,
    ...option("priority", rule.priority),
    ...option("from", rule.from && formatAddress(rule.from)),
    ...option("iif", rule.iif),
    ...option("fwmark", rule.mark && plainMark(rule.mark)),
    ...option("ipproto", rule.ipProtocol),
    ...option("sport", rule.sourcePort),
    "table",
    rule.table,
    ...option("protocol", rule.protocol),
  );
}

/** The program `ip`, for a family. */
function ip(family: 4 | 6): readonly string[] {
  return family === 4 ? ["ip"] : ["ip", "-6"];
}

function option(name: string, value: string | number | undefined): readonly (string | number)[] {
  return value === undefined ? [] : [name, value];
}
