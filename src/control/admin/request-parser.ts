/**
 * Reads one HTTP/1.1 request out of the pieces that arrive of it (RFC 9112). Whatever else a
 * client sends behind it is ignored: a connection carries one request. Pure.
 */

/** A request, complete. */
export interface ParsedRequest {
  readonly method: string;
  /** The path and query, `/v1/status?x=1`. */
  readonly target: string;
  /** By name in small letters; of a name that comes twice, both values with a comma between. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array;
}

/** The error of a bad request. */
export interface RequestFault {
  readonly status: 400 | 411 | 413 | 431 | 505;
  readonly detail: string;
}

export interface RequestBounds {
  /** Of the request line and the headers. */
  readonly headBytesMax: number;
  readonly bodyBytesMax: number;
}

export type RequestState =
  | { readonly kind: "partial"; readonly wantsContinue: boolean }
  | { readonly kind: "request"; readonly request: ParsedRequest }
  | { readonly kind: "fault"; readonly fault: RequestFault };

const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const linePattern = /^([A-Z]{1,16}) (\/[!-~]*|\*) HTTP\/(\d)\.\d$/;

interface Head {
  readonly method: string;
  readonly target: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly bodyLength: number;
}

export class RequestParser {
  private readonly bounds: RequestBounds;
  /** The part of the head that has arrived. */
  private readonly start: Uint8Array;
  private startLength = 0;
  private head: Head | undefined;
  private body = new Uint8Array(0);
  private bodyLength = 0;
  private isContinued = false;

  constructor(bounds: RequestBounds) {
    this.bounds = bounds;
    this.start = new Uint8Array(bounds.headBytesMax + 4);
  }

  /** Adds what has arrived; returns what is known by now. Not called again after a fault. */
  push(chunk: Uint8Array): RequestState {
    return this.head === undefined ? this.addToHead(chunk) : this.addToBody(this.head, chunk);
  }

  private addToHead(chunk: Uint8Array): RequestState {
    const { bounds, start, startLength } = this;
    const kept = chunk.subarray(0, start.length - startLength);
    start.set(kept, startLength);
    this.startLength += kept.length;
    const end = endOfHead(start.subarray(0, this.startLength), Math.max(0, startLength - 3));
    if (end < 0) {
      if (this.startLength < start.length) return { kind: "partial", wantsContinue: false };
      const detail = `the head is longer than ${bounds.headBytesMax} bytes`;
      return { kind: "fault", fault: { status: 431, detail } };
    }
    const head = this.readHead(new TextDecoder("latin1").decode(start.subarray(0, end)));
    if ("status" in head) return { kind: "fault", fault: head };
    this.head = head;
    this.body = new Uint8Array(head.bodyLength);
    return this.addToBody(head, chunk.subarray(end + 4 - startLength));
  }

  private addToBody({ method, target, headers }: Head, chunk: Uint8Array): RequestState {
    const { body } = this;
    const kept = chunk.subarray(0, body.length - this.bodyLength);
    body.set(kept, this.bodyLength);
    this.bodyLength += kept.length;
    if (this.bodyLength === body.length) {
      return { kind: "request", request: { method, target, headers, body } };
    }
    const isAsked = headers.get("expect")?.toLowerCase() === "100-continue";
    const wantsContinue = isAsked && !this.isContinued;
    this.isContinued = true;
    return { kind: "partial", wantsContinue };
  }

  private readHead(text: string): Head | RequestFault {
    const [line = "", ...fields] = text.split("\r\n");
    const parts = linePattern.exec(line);
    if (parts === null) return { status: 400, detail: "this is not a request of HTTP/1.1" };
    const [, method = "", target = "", major] = parts;
    if (major !== "1") return { status: 505, detail: "only HTTP/1.1 is answered here" };
    const headers = new Map<string, string>();
    for (const field of fields) {
      const colon = field.indexOf(":");
      const name = field.slice(0, Math.max(0, colon)).toLowerCase();
      const value = field.slice(colon + 1).trim();
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is rejected
      if (!tokenPattern.test(name) || /[\x00-\x08\x0a-\x1f\x7f]/.test(value)) {
        return { status: 400, detail: "a header is not NAME: VALUE" };
      }
      const known = headers.get(name);
      headers.set(name, known === undefined ? value : `${known}, ${value}`);
    }
    if (headers.has("transfer-encoding")) {
      return { status: 411, detail: "give the length of the body (Content-Length)" };
    }
    const length = headers.get("content-length") ?? "0";
    if (!/^[0-9]{1,15}$/.test(length)) {
      return { status: 400, detail: "Content-Length is not a number" };
    }
    if (Number(length) > this.bounds.bodyBytesMax) {
      const detail = `the body is longer than ${this.bounds.bodyBytesMax} bytes`;
      return { status: 413, detail };
    }
    return { method, target, headers, bodyLength: Number(length) };
  }
}

/** Where the empty line behind the headers begins, from `from` on; negative: it has not come. */
function endOfHead(bytes: Uint8Array, from: number): number {
  for (let at = from; at + 3 < bytes.length; at++) {
    const isEnd =
      bytes[at] === 13 && bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10;
    if (isEnd) return at;
  }
  return -1;
}
