/**
 * HTTP/1.1 on a unix socket, one request a connection, with a bound on all that a client can make
 * the process hold: connections, the time and size of a request, what is not read of an answer.
 *
 * Not Bun.serve: it accepts any number of connections, each of which costs a descriptor that the
 * traffic may need, and without a time-out for streams it has none for clients that stall either.
 */

import type { Socket, UnixSocketListener } from "bun";
import { configurationBytesMax } from "../../engine/limits.ts";
import {
  adminConnectionsMax,
  adminHeadBytesMax,
  adminRequestMs,
  adminRequestsPerSecond,
  adminStalledMs,
} from "./limits.ts";
import { ApiError, problemResponse } from "./problem.ts";
import { type ParsedRequest, RequestParser } from "./request-parser.ts";
import { statusText } from "./status-texts.ts";

/** Answers a request; what it throws becomes an error of the API. */
export type Handler = (request: Request) => Promise<Response> | Response;

/** The bounds of clients. */
export interface HttpBounds {
  /** At once; a new one displaces the oldest whose request is not complete. */
  readonly connectionsMax: number;
  readonly requestsPerSecond: number;
  /** For the request to arrive; and for some of the answer to be taken, in ms. */
  readonly requestMs: number;
  readonly stalledMs: number;
}

const usualBounds: HttpBounds = {
  connectionsMax: adminConnectionsMax,
  requestsPerSecond: adminRequestsPerSecond,
  requestMs: adminRequestMs,
  stalledMs: adminStalledMs,
};

const sizes = { headBytesMax: adminHeadBytesMax, bodyBytesMax: configurationBytesMax };

export class HttpServer {
  private readonly handler: Handler;
  private readonly bounds: HttpBounds;
  /** The oldest first. */
  private readonly clients = new Set<Client>();
  private readonly listener: UnixSocketListener<Client | undefined>;
  /** Requests that may still be answered in this second. */
  private allowance = 0;
  private second = Number.NaN;

  /** Listens at `path`. @throws the error of bind(2) or listen(2), with its `code` */
  constructor(path: string, handler: Handler, bounds = usualBounds) {
    this.handler = handler;
    this.bounds = bounds;
    this.listener = Bun.listen<Client | undefined>({
      unix: path,
      socket: {
        open: (socket) => this.accept(socket),
        data: (socket, bytes) => socket.data?.received(bytes),
        drain: (socket) => socket.data?.drained(),
        close: (socket) => this.forget(socket.data),
        error: (socket) => this.forget(socket.data),
      },
    });
  }

  /** The number of connections. */
  get connections(): number {
    return this.clients.size;
  }

  /** Ends all connections; the file of the socket is removed. */
  stop(): void {
    this.listener.stop(true);
    for (const client of [...this.clients]) this.forget(client);
  }

  private accept(socket: Socket<Client | undefined>): void {
    // Descriptors are free again at once: a flood costs the traffic none.
    if (this.clients.size >= this.bounds.connectionsMax && !this.displace()) {
      return void socket.terminate();
    }
    const client = new Client(socket, this.bounds, (request) => this.answer(request));
    socket.data = client;
    this.clients.add(client);
  }

  /** Ends the oldest connection whose request is not complete; false if there is none. */
  private displace(): boolean {
    for (const client of this.clients) {
      if (client.isAnswered) continue;
      client.terminate();
      this.forget(client);
      return true;
    }
    return false;
  }

  private forget(client: Client | undefined): void {
    if (client === undefined || !this.clients.delete(client)) return;
    client.closed();
  }

  private async answer(request: ParsedRequest): Promise<Response> {
    if (!this.admits()) {
      const most = `${this.bounds.requestsPerSecond} requests in a second`;
      return problemResponse(new ApiError(429, `there are more than ${most}: try again`));
    }
    return await this.handler(
      new Request(new URL(request.target, "http://localhost").href, {
        method: request.method,
        headers: [...request.headers].filter(([name]) => name !== "host"),
        ...(request.body.length > 0 ? { body: request.body as Uint8Array<ArrayBuffer> } : {}),
      }),
    );
  }

  private admits(): boolean {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.second) this.allowance = this.bounds.requestsPerSecond;
    this.second = second;
    return this.allowance-- > 0;
  }
}

/** One connection: its request, and the answer as far as the client has taken it. */
class Client {
  private readonly socket: Socket<Client | undefined>;
  private readonly answer: (request: ParsedRequest) => Promise<Response>;
  private readonly bounds: HttpBounds;
  private readonly parser = new RequestParser(sizes);
  /** Its request is complete, or wrong. */
  isAnswered = false;
  private isClosed = false;
  private deadline: ReturnType<typeof setTimeout>;
  private onDrain: (() => void) | undefined;
  private body: { cancel(): Promise<void> } | undefined;

  constructor(
    socket: Socket<Client | undefined>,
    bounds: HttpBounds,
    answer: (request: ParsedRequest) => Promise<Response>,
  ) {
    this.socket = socket;
    this.answer = answer;
    this.bounds = bounds;
    this.deadline = this.endIn(bounds.requestMs);
  }

  received(bytes: Uint8Array): void {
    if (this.isAnswered) return;
    const state = this.parser.push(bytes);
    if (state.kind === "partial") {
      if (state.wantsContinue) this.socket.write("HTTP/1.1 100 Continue\r\n\r\n");
      return;
    }
    this.isAnswered = true;
    clearTimeout(this.deadline);
    if (state.kind === "request") void this.respond(state.request);
    else void this.send("GET", problemOf(state.fault)).then(() => this.end());
  }

  /** Ends the connection at once. */
  terminate(): void {
    this.socket.terminate();
  }

  drained(): void {
    this.onDrain?.();
  }

  /** The connection is gone. */
  closed(): void {
    this.isClosed = true;
    clearTimeout(this.deadline);
    this.onDrain?.();
    void this.body?.cancel().catch(() => {});
  }

  private async respond(request: ParsedRequest): Promise<void> {
    let response: Response;
    try {
      response = await this.answer(request);
    } catch (error) {
      const known = error instanceof ApiError ? error : new ApiError(500, String(error));
      response = problemResponse(known);
    }
    try {
      await this.send(request.method, response);
    } catch {
      // A stream that has failed: its reader sees the end.
    }
    this.end();
  }

  private async send(method: string, response: Response): Promise<void> {
    const { headers, status } = response;
    const isStream = headers.get("content-type") === "text/event-stream";
    const whole = isStream ? undefined : new Uint8Array(await response.arrayBuffer());
    if (whole !== undefined) headers.set("content-length", String(whole.length));
    headers.set("connection", "close");
    let head = `HTTP/1.1 ${status} ${statusText(status)}\r\n`;
    for (const [name, value] of headers) head += `${name}: ${value}\r\n`;
    await this.write(new TextEncoder().encode(`${head}\r\n`));
    if (method === "HEAD") return void response.body?.cancel();
    if (whole !== undefined) return await this.write(whole);
    await this.stream(response);
  }

  /** Sends pieces as they come. What the client does not take stays with whom they come from. */
  private async stream({ body }: Response): Promise<void> {
    if (body === null) return;
    const reader = body.getReader();
    this.body = reader;
    while (!this.isClosed) {
      const { done, value } = await reader.read();
      if (done) return;
      await this.write(value);
    }
    await reader.cancel();
  }

  /** Settles when the kernel has taken all, or the client is gone. */
  private async write(bytes: Uint8Array): Promise<void> {
    for (let sent = 0; sent < bytes.length && !this.isClosed; ) {
      const taken = this.socket.write(bytes.subarray(sent));
      if (taken < 0) return;
      sent += taken;
      if (sent >= bytes.length) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.onDrain = resolve;
      this.deadline = this.endIn(this.bounds.stalledMs);
      await promise;
      this.onDrain = undefined;
      clearTimeout(this.deadline);
    }
  }

  private end(): void {
    if (this.isClosed) return;
    this.socket.end();
    // Its client may keep its side open.
    this.deadline = this.endIn(this.bounds.stalledMs);
  }

  private endIn(ms: number): ReturnType<typeof setTimeout> {
    clearTimeout(this.deadline);
    return setTimeout(() => this.terminate(), ms);
  }
}

function problemOf({ status, detail }: { status: number; detail: string }): Response {
  return problemResponse(new ApiError(status, detail));
}
