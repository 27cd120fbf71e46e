/** The frames of `top`, as lines. Pure. */

import { printLine } from "../../net/printable.ts";
import { tableText } from "../table.ts";
import { frequencyText, rateText, timeText } from "../words/amounts.ts";
import type { Status } from "./data.ts";
import type { TopModel } from "./model.ts";
import { columnsOf, type Row, type View, views } from "./views.ts";

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

/** A line and how it looks. */
interface Line {
  readonly text: string;
  readonly style?: Style;
}

const styles = { bold: "1", dim: "2", inverse: "7", bad: "31", title: "1" } as const;
type Style = keyof typeof styles;

const help = [
  "1 services  2 upstreams  3 connections  4 log",
  "up, down, page keys, home, end   choose a row",
  "Enter   all that is known of it; again, or Esc: back",
  "s       sort by the next column",
  "/       filter: words that rows have, and for connections also",
  "        client=NET upstream=NAME original=NET:PORT service= pool= state= older= idle=",
  "k       end the chosen connection (asks)",
  "d       drain the chosen service or upstream, or take it up again (asks)",
  "space   pause, and go on",
  "q       quit",
];

/** A frame of exactly `rows` lines, none of them wider than the screen. */
export function renderFrame(model: TopModel, { columns, rows }: Size, colors: boolean): string[] {
  const top: Line[] = [...headOf(model), { text: tabsOf(model), style: "dim" }];
  const room = Math.max(0, rows - top.length - 1);
  const lines = [...top, ...fill(bodyOf(model, columns, room), room), footOf(model)];
  // On a screen of a few lines the last one, which may ask something, stays.
  const shown = lines.length > rows ? [...lines.slice(0, rows - 1), footOf(model)] : lines;
  return shown.slice(0, rows).map((line) => styled(line, columns, colors));
}

/** The same without a screen: the head and the tables of some views, all rows of them. */
export function renderOnce(
  model: TopModel,
  shown: readonly View[],
  columns: number | undefined,
): string {
  const head = headOf(model).map(({ text }) => `${text}\n`);
  const tables = shown.map((view) => {
    model.view = view;
    const rows = model.rows();
    if (rows.length === 0) return `\n${titleOf(view)}: none\n`;
    const cells = rows.map((row) => row.cells);
    return `\n${tableText(columnsOf[view], cells, columns)}`;
  });
  return [...head, ...tables].join("");
}

function headOf(model: TopModel): Line[] {
  const { status } = model;
  if (status === undefined) {
    return [{ text: "tproxy", style: "title" }, stateOf(model, "waiting for the first status")];
  }
  const { version, pid, generation, workers, counters } = status;
  const up = timeText(Math.max(0, Date.parse(status.time) - Date.parse(status.start_time)));
  const threads = workers === 1 ? "1 worker" : `${workers} workers`;
  const parts = [
    `tproxy ${version}`,
    `pid ${pid}`,
    `up ${up}`,
    `generation ${generation}`,
    threads,
  ];
  const { begun, out, back } = model.meter.all();
  const open = (counters.active ?? 0) + (counters.active_sessions ?? 0);
  const flow = [
    ...[`${open} open`, `${frequencyText(begun)} new/s`],
    ...[`out ${rateText(out)}`, `in ${rateText(back)}`],
  ];
  return [
    { text: `${parts.join("  ")}  ${status.time.slice(11, 19)}`, style: "title" },
    { text: flow.join("  ") },
    stateOf(model, wrongOf(status)),
  ];
}

/** The problems; the connection to the process comes first. */
function stateOf({ problem, isPaused }: TopModel, wrong: string): Line {
  if (problem !== undefined) return { text: printLine(problem), style: "bad" };
  const text = wrong === "" ? "all is well" : wrong;
  if (isPaused) return { text: `paused (space goes on)  ${text}`, style: "bold" };
  return wrong === "" ? { text } : { text, style: "bad" };
}

function wrongOf(status: Status): string {
  return status.problems.map(printLine).join(", ");
}

const titleOf = (view: View) => view;

function tabsOf(model: TopModel): string {
  const counts: Partial<Record<View, string>> = {};
  const { status, filter } = model;
  if (status !== undefined) {
    counts.services = String(status.services.length);
    counts.upstreams = String(status.pools.reduce((sum, pool) => sum + pool.upstreams.length, 0));
    counts.connections = `${status.connections.length} of ${status.matched}`;
  }
  const tabs = views.map((view, at) => {
    const count = counts[view] === undefined ? "" : ` (${counts[view]})`;
    const text = `${at + 1} ${titleOf(view)}${count}`;
    return view === model.view ? `[${text}]` : ` ${text} `;
  });
  const filtered = filter === "" ? "" : `   filter: ${printLine(filter)}`;
  return `${tabs.join(" ")}   sort: ${model.sort}${filtered}`;
}

function bodyOf(model: TopModel, columns: number, room: number): Line[] {
  if (model.hasHelp) return help.map((text) => ({ text }));
  const rows = model.rows();
  const at = model.chosenAt(rows);
  const chosen = rows[at];
  if (model.hasDetails && chosen !== undefined) return detailsOf(chosen, room);
  if (rows.length === 0) return [{ text: `no ${titleOf(model.view)}`, style: "dim" }];
  const count = Math.max(1, room - 1);
  // The chosen row stays within the screen.
  const first = Math.max(0, Math.min(at - Math.floor(count / 2), rows.length - count));
  const seen = rows.slice(first, first + count);
  const cells = seen.map((row) => row.cells);
  const [title = "", ...texts] = tableText(columnsOf[model.view], cells, columns).split("\n");
  return [
    { text: title, style: "bold" },
    ...seen.map((row, index): Line => {
      const text = texts[index] ?? "";
      if (first + index === at) return { text: text.padEnd(columns), style: "inverse" };
      return row.isBad ? { text, style: "bad" } : { text };
    }),
  ];
}

function detailsOf({ details }: Row, room: number): Line[] {
  const width = Math.max(...details.map(([name]) => Bun.stringWidth(name)));
  return details.slice(0, room).map(([name, value]) => {
    const padding = " ".repeat(width - Bun.stringWidth(name));
    return { text: `${name}${padding}  ${printLine(value)}` };
  });
}

function footOf({ question, typed, message, view }: TopModel): Line {
  if (question !== undefined) return { text: `${printLine(question.text)}? y or n`, style: "bold" };
  if (typed !== undefined) return { text: `filter: ${printLine(typed)}_`, style: "bold" };
  if (message !== "") return { text: printLine(message), style: "bold" };
  const own = view === "connections" ? "k end  " : view === "log" ? "" : "d drain  ";
  return {
    text: `q quit  ? help  s sort  / filter  ${own}Enter details  space pause`,
    style: "dim",
  };
}

function fill(lines: readonly Line[], room: number): Line[] {
  const blank = Array.from({ length: Math.max(0, room - lines.length) }, () => ({ text: "" }));
  return [...lines.slice(0, room), ...blank];
}

function styled({ text, style }: Line, columns: number, colors: boolean): string {
  const cut = cutTo(text, columns);
  if (style === undefined) return cut;
  // Without colours the chosen row is still to be seen.
  if (!colors && style !== "inverse") return cut;
  return `\x1b[${styles[style]}m${cut}\x1b[0m`;
}

function cutTo(text: string, columns: number): string {
  if (Bun.stringWidth(text) <= columns) return text;
  let kept = "";
  let width = 0;
  for (const character of text) {
    width += Bun.stringWidth(character);
    if (width > columns) break;
    kept += character;
  }
  return kept;
}
