/** The content of `top`, and the effect of each key. Pure: it returns an action to carry out. */

import { filterParts } from "../../workers/row-filter.ts";
import type { LogLine, Status } from "./data.ts";
import type { Key, KeyName } from "./keys.ts";
import { RateMeter } from "./rates.ts";
import { type Row, rowsOf, sortKeys, type View, views, withWords } from "./views.ts";

/** The action that a key asks for beyond the screen. */
export type Action =
  | { readonly kind: "quit" }
  /** The server is to be asked for other connections. */
  | { readonly kind: "query" }
  | { readonly kind: "kill"; readonly id: string }
  | { readonly kind: "service"; readonly name: string; readonly state: "up" | "drained" }
  | {
      readonly kind: "upstream";
      readonly pool: string;
      readonly name: string;
      readonly state: "ready" | "drain";
    };

/** Something that is asked before it is done. */
interface Question {
  readonly text: string;
  readonly action: Action;
}

const logMax = 1_000;
/** The rows that a page key goes on by. */
const pageRows = 10;

export class TopModel {
  view: View;
  status: Status | undefined;
  readonly meter = new RateMeter();
  readonly log: LogLine[] = [];
  /** Why no figures come; undefined: they do. */
  problem: string | undefined;
  isPaused = false;
  hasHelp = false;
  hasDetails = false;
  question: Question | undefined;
  /** The result of an action. */
  message = "";
  /** The filter that is being typed; undefined: none is. */
  typed: string | undefined;
  filter = "";
  private readonly sorts = new Map<View, number>();
  private readonly chosen = new Map<View, { key: string; at: number }>();

  constructor(view: View) {
    this.view = view;
  }

  /** Shows a new status, unless the view is paused. */
  update(status: Status): void {
    this.problem = undefined;
    if (this.isPaused) return;
    this.status = status;
    this.meter.push(status);
  }

  add(line: LogLine): void {
    if (this.isPaused) return;
    this.log.push(line);
    if (this.log.length > logMax) this.log.shift();
  }

  get sort(): string {
    const keys = sortKeys[this.view];
    return keys[(this.sorts.get(this.view) ?? 0) % keys.length] as string;
  }

  /** The order in which the server sends connections. */
  get connectionSort(): string {
    const keys = sortKeys.connections;
    return keys[(this.sorts.get("connections") ?? 0) % keys.length] as string;
  }

  /** The parts of the filter that the server knows: `client=192.0.2.0/24`. */
  get queryParts(): readonly (readonly [string, string])[] {
    return this.words.flatMap((word) => partOf(word) ?? []);
  }

  private get words(): string[] {
    return this.filter.split(/\s+/).filter((word) => word !== "");
  }

  rows(): readonly Row[] {
    const all = rowsOf(this.view, this.status, this.log, this.meter, this.sort);
    const shown = withWords(
      all,
      this.words.filter((word) => partOf(word) === undefined),
    );
    return this.view === "log" ? shown.toReversed() : shown;
  }

  /** The number of the chosen row: it stays with its subject when the order changes. */
  chosenAt(rows: readonly Row[]): number {
    const chosen = this.chosen.get(this.view);
    if (chosen === undefined) return 0;
    const at = rows.findIndex(({ key }) => key === chosen.key);
    return at >= 0 ? at : Math.max(0, Math.min(chosen.at, rows.length - 1));
  }

  press(key: Key): Action | undefined {
    if (key.name === "interrupt") return { kind: "quit" };
    this.message = "";
    if (this.question !== undefined) return this.answer(this.question, key);
    if (this.typed !== undefined) return this.type(this.typed, key);
    if (key.name === "text") return this.command(key.text);
    return this.move(key.name);
  }

  private answer({ action, text }: Question, key: Key): Action | undefined {
    this.question = undefined;
    if (key.name === "text" && key.text.toLowerCase() === "y") return action;
    this.message = `not done: ${text}`;
    return undefined;
  }

  private type(typed: string, key: Key): Action | undefined {
    switch (key.name) {
      case "text":
        this.typed = typed + key.text;
        return undefined;
      case "backspace":
        this.typed = [...typed].slice(0, -1).join("");
        return undefined;
      case "clear":
        this.typed = "";
        return undefined;
      case "escape":
        this.typed = undefined;
        return undefined;
      case "enter":
        this.typed = undefined;
        this.filter = typed.trim();
        return { kind: "query" };
      default:
        return undefined;
    }
  }

  private command(text: string): Action | undefined {
    const view = views[Number(text) - 1];
    if (view !== undefined) {
      this.view = view;
      this.hasDetails = false;
      this.hasHelp = false;
      return undefined;
    }
    switch (text.toLowerCase()) {
      case "q":
        return { kind: "quit" };
      case "s":
        return this.nextSort();
      case "/":
        this.typed = this.filter;
        return undefined;
      case " ":
        this.isPaused = !this.isPaused;
        return undefined;
      case "?":
        this.hasHelp = !this.hasHelp;
        return undefined;
      case "k":
        return this.askKill();
      case "d":
        return this.askDrain();
      default:
        this.message = 'this key does nothing here: "?" shows those that do';
        return undefined;
    }
  }

  private move(name: KeyName): Action | undefined {
    if (name === "enter") this.hasDetails = !this.hasDetails;
    if (name === "escape") {
      this.hasDetails = false;
      this.hasHelp = false;
    }
    const rows = this.rows();
    const at = this.chosenAt(rows);
    const steps: Partial<Record<KeyName, number>> = {
      ...{ up: -1, down: 1, "page-up": -pageRows, "page-down": pageRows },
      ...{ home: -rows.length, end: rows.length },
    };
    const step = steps[name];
    if (step === undefined || rows.length === 0) return undefined;
    const next = Math.max(0, Math.min(at + step, rows.length - 1));
    this.chosen.set(this.view, { key: rows[next]?.key ?? "", at: next });
    return undefined;
  }

  private nextSort(): Action | undefined {
    this.sorts.set(this.view, (this.sorts.get(this.view) ?? 0) + 1);
    return this.view === "connections" ? { kind: "query" } : undefined;
  }

  private get subject() {
    const rows = this.rows();
    return rows[this.chosenAt(rows)]?.subject;
  }

  private askKill(): undefined {
    const { subject } = this;
    if (subject?.kind !== "connection") {
      this.message = "k ends a connection: choose one in the view 3";
      return;
    }
    const { id, client } = subject.connection;
    this.question = { text: `end connection ${id} of ${client}`, action: { kind: "kill", id } };
  }

  private askDrain(): undefined {
    const { subject } = this;
    if (subject?.kind === "service") {
      const { name, state } = subject.service;
      const next = state === "up" ? "drained" : "up";
      const text = next === "up" ? `take service ${name} up again` : `drain service ${name}`;
      this.question = { text, action: { kind: "service", name, state: next } };
    } else if (subject?.kind === "upstream") {
      const { pool, upstream } = subject;
      const { name, admin = "ready" } = upstream;
      const state = admin === "ready" ? "drain" : "ready";
      const text = `${state === "drain" ? "drain" : "take back"} upstream ${pool}/${name}`;
      this.question = { text, action: { kind: "upstream", pool, name, state } };
    } else this.message = "d drains a service or an upstream: choose one in the views 1 and 2";
  }
}

/** `client=192.0.2.0/24` as a part that the server knows; undefined for any other word. */
function partOf(word: string): [[string, string]] | undefined {
  const equals = word.indexOf("=");
  const name = word.slice(0, Math.max(0, equals));
  const known: readonly string[] = filterParts;
  return known.includes(name) ? [[name, word.slice(equals + 1)]] : undefined;
}
