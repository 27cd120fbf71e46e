/** Man pages, made of the argument parsers that also print the help. */

import type { DocEntry, DocPage } from "@optique/core/doc";
import type { Message } from "@optique/core/message";
import { getDocPage } from "@optique/core/parser";
import { formatUsage, formatUsageTerm } from "@optique/core/usage";
import packageJson from "../../package.json" with { type: "json" };
import { commands } from "../../src/cli/commands.ts";
import { type HelpSection, helpText, sectionsOf } from "../../src/cli/help.ts";
import { configurationPage } from "./man-configuration.ts";
import { escaped } from "./roff.ts";

export interface ManPage {
  /** `tproxy-listen.1` */
  readonly name: string;
  readonly text: string;
}

/** A message on one line, as it reads without a terminal. */
function plain(message: Message | undefined): string {
  return escaped(helpText(message));
}

function entry({ term, description }: DocEntry): string {
  return `.TP\n.B ${escaped(formatUsageTerm(term))}\n${plain(description)}`;
}

function section({ title, entries }: HelpSection): string {
  const heading = title === undefined ? [] : [`.SS ${escaped(title)}`];
  return [...heading, ...entries.map(entry)].join("\n");
}

/** The examples of a help page: lines of what each does and of its command, by turns. */
function examplesOf(footer: Message | undefined): string[] {
  const [, ...lines] = helpText(footer).split("\n");
  return lines.flatMap((line, i) => {
    const what = line.trim().replace(/^# /, "");
    const command = lines[i + 1]?.trim() ?? "";
    return i % 2 === 0 ? [`.TP\n.B ${escaped(command)}\n${escaped(what)}`] : [];
  });
}

const title = (name: string) =>
  `.TH ${escaped(name.toUpperCase())} 1 "" "tproxy ${packageJson.version}" "User Commands"`;

function commandPage(command: string, page: DocPage): string {
  const name = `tproxy-${command}`;
  const usage = escaped(formatUsage("tproxy", page.usage ?? [])).replace("tproxy ", "");
  const brief = plain(page.brief).replace(/\.$/, "");
  const examples = examplesOf(page.footer);
  return [
    title(name),
    `.SH NAME\n${escaped(name)} \\- ${brief.charAt(0).toLowerCase()}${brief.slice(1)}`,
    `.SH SYNOPSIS\n.B tproxy ${usage}`,
    `.SH DESCRIPTION\n${plain(page.description)}`,
    `.SH OPTIONS\n${sectionsOf(page).map(section).join("\n")}`,
    ...(examples.length === 0 ? [] : [`.SH EXAMPLES\n${examples.join("\n")}`]),
    ".SH SEE ALSO\n.BR tproxy (1)",
    "",
  ].join("\n");
}

function overview(pages: ReadonlyMap<string, DocPage>): string {
  const commands = [...pages].map(
    ([command, { brief }]) => `.TP\n.BR tproxy\\-${command} (1)\n${plain(brief)}`,
  );
  const statuses = [
    ["0", "It is done, or it was ended by SIGINT or SIGTERM."],
    ["1", "It failed; the reason is on standard error."],
    ["2", "The arguments cannot be carried out; nothing was changed."],
    ["3", "No process runs that could be asked."],
    ["4", 'The change is valid, and only "tproxy upgrade" can make it.'],
  ].map(([status, meaning]) => `.TP\n.B ${status}\n${meaning}`);
  return [
    title("tproxy"),
    ".SH NAME\ntproxy \\- the Linux transparent\\-proxy tool in one file",
    ".SH SYNOPSIS\n.B tproxy\n.I COMMAND\n.RI [ OPTION .\\|.\\|.]",
    `.SH COMMANDS\n${commands.join("\n")}`,
    ".TP\n.B tproxy completion bash|zsh|fish\nPrint a completion script.",
    ".TP\n.B tproxy \\-h, tproxy \\-\\-help\nList the commands.",
    ".TP\n.B tproxy \\-V, tproxy \\-\\-version",
    "Print the release, the commit and what it was built for.",
    `.SH EXIT STATUS\n${statuses.join("\n")}`,
    ".SH ENVIRONMENT\nThe static executable ignores variables such as\n.BR BUN_OPTIONS ,",
    ".B NODE_OPTIONS\nand\n.BR LD_PRELOAD .\n.TP\n.B NO_COLOR\nNo colours, unless it is empty.",
    '.TP\n.B TERM\nNo colours if it is "dumb".',
    "",
  ].join("\n");
}

/** One page for each command, one that lists them, and that of the configuration file. */
export async function makeManPages(): Promise<ManPage[]> {
  const pages = new Map<string, DocPage>();
  for (const [command, load] of commands) {
    const { parser } = await load();
    const page = getDocPage(parser, [command]);
    if (page === undefined) throw new Error(`the parser of ${command} has no documentation`);
    pages.set(command, page);
  }
  return [
    { name: "tproxy.1", text: overview(pages) },
    ...[...pages].map(([command, page]) => ({
      name: `tproxy-${command}.1`,
      text: commandPage(command, page),
    })),
    { name: "tproxy.toml.5", text: configurationPage() },
  ];
}
