/**
 * The phases of a forwarded connection.
 *
 *     phase      what it waits for                  for at most        then
 *     preface    what precedes the client's stream  --header-timeout   route
 *     route      –                                  –                  dial, queue (no place)
 *     queue      a place among the connections      --connect-timeout  route
 *     dial       a descriptor, then the upstream    --connect-timeout  handshake, route (failed)
 *     handshake  the PROXY header is sent           –                  relay
 *     relay      bytes and ends of both sides       --idle-timeout     closed, moving
 *     moving     another process, or first edges    an upgrade's turn  relay
 *     closed     –                                  –                  –
 *
 * Each phase may also end in `closed`. Only `TcpConnection.setState` changes the phase. It throws
 * for a move that is not in MOVES: a mistake then fails a test (or ends a Worker, which is
 * replaced) instead of leaving a connection open forever.
 */

/** What a connection does. */
export type Phase =
  | "preface"
  | "route"
  | "queue"
  | "dial"
  | "handshake"
  | "relay"
  | "moving"
  | "closed";

const MOVES: Readonly<Record<Phase, readonly Phase[]>> = {
  preface: ["route", "closed"],
  route: ["dial", "queue", "closed"],
  queue: ["route", "closed"],
  dial: ["handshake", "route", "closed"],
  handshake: ["relay", "closed"],
  relay: ["moving", "closed"],
  moving: ["relay", "closed"],
  closed: [],
};

/** Handles the events of one phase. One object serves all connections of a Worker. */
export interface PhaseHandler<Connection> {
  /** A connection has entered this phase. It may move on at once. */
  enter(connection: Connection): void;
  /** `mask`: the EPOLL* bits of the client's socket; the connection has noted them. */
  onClient?(connection: Connection, mask: number): void;
  /** The same for the socket towards the upstream, which `dial` has opened. */
  onUpstream?(connection: Connection, mask: number): void;
  /** Its turn has come (`StreamTurns`). */
  onTurn?(connection: Connection): void;
  /** The connection's timer has fired. A phase that waits arms it in `enter`. */
  onTimer?(connection: Connection): void;
}

/** The handlers by phase. A closed connection gets no events. */
export type PhaseHandlers<Connection> = Readonly<
  Record<Exclude<Phase, "closed">, PhaseHandler<Connection>>
>;

/** Throws unless a connection may move from one phase to the other. */
export function checkMove(from: Phase, to: Phase): void {
  if (!MOVES[from].includes(to))
    throw new Error(`a connection must not move from ${from} to ${to}`);
}

/** The word for a phase in the log and in the table of open connections. */
export const phaseWords: Readonly<Record<Phase, string>> = {
  preface: "header",
  route: "connecting",
  queue: "queued",
  dial: "connecting",
  handshake: "connecting",
  relay: "relaying",
  moving: "relaying",
  closed: "closed",
};
