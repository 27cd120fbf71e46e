/** Renders help as text. Loaded only when help is asked for. Pure. */

import type { DocEntry, DocPage } from "@optique/core/doc";
import { formatMessage, type Message } from "@optique/core/message";
import { formatUsage, formatUsageTerm } from "@optique/core/usage";

/** The width of lines without a terminal. */
const defaultColumns = 80;
/** The column of descriptions; a longer name has its description on the next line. */
const descriptionColumn = 26;
const indent = 2;
const gap = 2;

export interface HelpStyle {
  readonly colors: boolean;
  /** The terminal's width; undefined without a terminal. */
  readonly columns: number | undefined;
}

/** The options and arguments of a help page under one title. */
export interface HelpSection {
  /** Undefined for what is in no group. */
  readonly title: string | undefined;
  readonly entries: readonly DocEntry[];
}

/**
 * The sections of a page. Sections with the same title are merged, in the order of their first
 * entries; those of arguments come first.
 */
export function sectionsOf({ sections }: DocPage): HelpSection[] {
  const byTitle = new Map<string | undefined, DocEntry[]>();
  for (const { title, entries } of sections) {
    if (entries.length === 0) continue;
    byTitle.set(title, [...(byTitle.get(title) ?? []), ...entries]);
  }
  const all = [...byTitle].map(([title, entries]) => ({ title, entries }));
  const isArguments = ({ entries }: HelpSection) =>
    entries.every(({ term }) => term.type === "argument");
  return [...all.filter(isArguments), ...all.filter((section) => !isArguments(section))];
}

/** A message on one line: no backquotes, which a shell would take for a command. */
export function helpText(message: Message | undefined, colors = false): string {
  return formatMessage(message ?? [], { colors, quotes: !colors }).replaceAll("`", '"');
}

/** A complete help page with a line break at its end. */
export function renderHelp(page: DocPage, style: HelpStyle): string {
  const columns = style.columns ?? defaultColumns;
  const paragraph = (message: Message | undefined) =>
    Bun.wrapAnsi(helpText(message, style.colors), columns);
  const usage = formatUsage("tproxy", page.usage ?? [], { colors: style.colors });
  const blocks = [
    `${paragraph(page.brief)}\nUsage: ${usage}`.trimStart(),
    paragraph(page.description),
    ...sectionsOf(page).map((section) => renderSection(section, columns, style.colors)),
    // Command lines are not wrapped, so that they can be pasted.
    helpText(page.footer, style.colors),
  ];
  return `${blocks.filter((block) => block !== "").join("\n\n")}\n`;
}

function renderSection({ title, entries }: HelpSection, columns: number, colors: boolean): string {
  const heading = title === undefined ? [] : [colors ? `\x1b[1m${title}:\x1b[0m` : `${title}:`];
  return [...heading, ...entries.map((each) => renderEntry(each, columns, colors))].join("\n");
}

function renderEntry({ term, description }: DocEntry, columns: number, colors: boolean): string {
  const options = { optionsSeparator: ", ", context: "doc" } as const;
  const width = formatUsageTerm(term, options).length;
  const name = `${" ".repeat(indent)}${formatUsageTerm(term, { ...options, colors })}`;
  const column = Math.min(descriptionColumn, Math.floor(columns / 2));
  const margin = " ".repeat(column);
  const wrapped = Bun.wrapAnsi(helpText(description, colors), columns - column);
  const text = wrapped.replaceAll("\n", `\n${margin}`);
  const room = column - indent - width;
  return room < gap ? `${name}\n${margin}${text}` : `${name}${" ".repeat(room)}${text}`;
}
