/** A client of the admin API: finds the socket, asks, and reads answers and streams. */

import { readFileSync, statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { CommandError, exitStatus, UsageError } from "../../errors.ts";
import { printLine } from "../../net/printable.ts";
import { quote } from "../../net/result.ts";
import { adminConnectMs, adminConnectPauseMs } from "./limits.ts";
import { usualSockets } from "./places.ts";
import type { ProblemPlace } from "./problem.ts";

/** The answer of a server. */
export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** One event of a stream. */
export interface StreamEvent {
  readonly event: string;
  readonly data: unknown;
}

export class AdminClient {
  private readonly paths: readonly string[];

  /** `path` is what the user has named; undefined: the usual places. */
  constructor(path: string | undefined) {
    this.paths = path === undefined ? usualSockets() : [path];
  }

  /**
   * Asks for `target` and returns the JSON of the answer.
   * @throws CommandError or UsageError for an error of the API; CommandError if nothing runs
   */
  async request(method: string, target: string, body?: object): Promise<unknown> {
    const answer = await this.ask(method, target, body);
    const parsed = parseJson(answer.body);
    if (answer.status < 400) return parsed;
    throw errorOf(answer.status, parsed);
  }

  /** The same with the answer as it is, whatever its status. */
  async ask(method: string, target: string, body?: object): Promise<Answer> {
    let text = "";
    const decoder = new TextDecoder();
    for await (const bytes of this.send(method, target, body)) {
      text += decoder.decode(bytes, { stream: true });
    }
    const { status, rest } = headOf(text);
    return { status, body: rest };
  }

  /** The events of a stream, until it ends. @throws as `request` */
  async *events(target: string): AsyncGenerator<StreamEvent, void> {
    let text = "";
    let hasHead = false;
    const decoder = new TextDecoder();
    for await (const bytes of this.send("GET", target)) {
      text += decoder.decode(bytes, { stream: true });
      if (!hasHead) {
        if (!text.includes("\r\n\r\n")) continue;
        const { status, rest } = headOf(text);
        if (status >= 400) continue;
        hasHead = true;
        text = rest;
      }
      const blocks = text.split("\n\n");
      text = blocks.pop() as string;
      for (const block of blocks) {
        const event = eventOf(block);
        if (event !== undefined) yield event;
      }
    }
    if (hasHead) return;
    const { status, rest } = headOf(text);
    throw errorOf(status, parseJson(rest));
  }

  private async *send(method: string, target: string, body?: object): AsyncGenerator<Uint8Array> {
    const socket = await this.connect();
    const text = body === undefined ? "" : JSON.stringify(body);
    const length = Buffer.byteLength(text);
    socket.write(
      `${method} ${target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\n\r\n${text}`,
    );
    try {
      yield* socket as AsyncIterable<Uint8Array>;
    } catch {
      // A reset is the end of the answer: that of a process that stops.
    } finally {
      socket.destroy();
    }
  }

  /** A connection to the first socket that can be opened. */
  private async connect(): Promise<Socket> {
    const until = performance.now() + adminConnectMs;
    for (;;) {
      const problems: { path: string; code: string }[] = [];
      for (const path of this.paths) {
        const opened = await open(path);
        if (typeof opened !== "string") return opened;
        problems.push({ path, code: opened });
      }
      const refused = problems.find(({ code }) => !absent.includes(code));
      if (refused !== undefined) throw refusal(refused.path, refused.code);
      // The process may be handing over to another one.
      if (performance.now() > until) {
        const places = problems.map(({ path, code }) => `${path} (${code})`).join(" or ");
        throw new CommandError(`nothing runs at ${places}`, exitStatus.notRunning);
      }
      await Bun.sleep(adminConnectPauseMs);
    }
  }
}

/** Nobody listens there. */
const absent = ["ENOENT", "ECONNREFUSED", "ENOTDIR"];

function open(path: string): Promise<Socket | string> {
  const { promise, resolve } = Promise.withResolvers<Socket | string>();
  const socket = connect({ path });
  socket.once("connect", () => resolve(socket));
  socket.once("error", ({ code, message }: NodeJS.ErrnoException) => resolve(code ?? message));
  return promise;
}

/** Why a socket that is there cannot be opened. */
function refusal(path: string, code: string): CommandError {
  if (code !== "EACCES") return new CommandError(`Cannot open ${quote(path)}: ${code}`);
  const group = groupOf(path);
  const repair =
    group === undefined
      ? "ask its owner, or use sudo"
      : `you are not in the group ${group}: join it, or use sudo`;
  return new CommandError(`Cannot open ${quote(path)}: ${code}: ${repair}`);
}

/** The name of a file's group, or its number. */
function groupOf(path: string): string | undefined {
  try {
    const { gid } = statSync(path);
    const rows = readFileSync("/etc/group", "utf8").split("\n");
    const row = rows.map((line) => line.split(":")).find(([, , id]) => id === String(gid));
    return row?.[0] ?? String(gid);
  } catch {
    return undefined;
  }
}

function headOf(text: string): { status: number; rest: string } {
  const end = text.indexOf("\r\n\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]);
  if (end < 0 || Number.isNaN(status)) {
    throw new CommandError("the process has ended the connection without an answer");
  }
  return { status, rest: text.slice(end + 4) };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new CommandError(`the answer is no JSON: ${quote(text)}`);
  }
}

/** The statuses of a wrong request: it names something unknown, or has no meaning. */
const usageStatuses = [400, 404, 422];

function errorOf(status: number, body: unknown): Error {
  const { detail, problems } = body as { detail?: unknown; problems?: readonly ProblemPlace[] };
  const text = typeof detail === "string" ? detail : `status ${status}`;
  const lines = problems?.map(problemLine) ?? [];
  const message = printLine([text, ...lines].join("; "));
  return usageStatuses.includes(status) ? new UsageError(message) : new CommandError(message);
}

function problemLine({ file, line, column, message }: ProblemPlace): string {
  const at = [file, line, column].filter((part) => part !== undefined);
  return at.length === 0 ? message : `${at.join(":")}: ${message}`;
}

/** Undefined for a comment. */
function eventOf(block: string): StreamEvent | undefined {
  let event = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  return data === "" ? undefined : { event, data: parseJson(data) };
}
