/**
 * The phases of a forwarded connection.
 *
 *     phase      what it waits for                  for at most        then
 *     preface    what precedes the client's stream  --header-timeout   route
 *     route      –                                  –                  dial, queue (no place)
 *     queue      a place among the connections      --connect-timeout  route
 *     dial       a descriptor, then the upstream    --connect-timeout  handshake, route (failed)
 *     handshake  what we say before the stream      –                  relay
 *     relay      bytes and ends of both sides       --idle-timeout     closed
 *     closed     –                                  –                  –
 *
 * Each phase may also end in `closed`. `TcpConnection.setState` is the only way from one to the
 * next. It throws for a move that MOVES does not have, so that a mistake ends a test (or a Worker,
 * which is replaced) and not a connection that nobody closes.
 */

/** What a connection does. */
export type Phase = "preface" | "route" | "queue" | "dial" | "handshake" | "relay" | "closed";

const MOVES: Readonly<Record<Phase, readonly Phase[]>> = {
  preface: ["route", "closed"],
  route: ["dial", "queue", "closed"],
  queue: ["route", "closed"],
  dial: ["handshake", "route", "closed"],
  handshake: ["relay", "closed"],
  relay: ["closed"],
  closed: [],
};

/** What a phase does with what happens. One object serves all connections of a Worker. */
export interface PhaseHandler<Connection> {
  /** The connection has moved here. It may move on at once. */
  enter(connection: Connection): void;
  /** `mask`: the EPOLL* bits of the client's socket; the connection has noted them. */
  onClient?(connection: Connection, mask: number): void;
  /** The same of the socket towards the upstream, which `dial` has made. */
  onUpstream?(connection: Connection, mask: number): void;
  /** The connection's timer has fired. Who enters a phase that waits arms it. */
  onTimer?(connection: Connection): void;
}

/** The handlers by phase. A connection that is closed hears of nothing. */
export type PhaseHandlers<Connection> = Readonly<
  Record<Exclude<Phase, "closed">, PhaseHandler<Connection>>
>;

/** Throws unless a connection may move from one phase to the other. */
export function checkMove(from: Phase, to: Phase): void {
  if (!MOVES[from].includes(to))
    throw new Error(`a connection must not move from ${from} to ${to}`);
}

/** The word that the log and the table of open connections have for a phase. */
export const phaseWords: Readonly<Record<Phase, string>> = {
  preface: "header",
  route: "connecting",
  queue: "queued",
  dial: "connecting",
  handshake: "connecting",
  relay: "relaying",
  closed: "closed",
};
