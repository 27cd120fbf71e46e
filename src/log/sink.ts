/** Where text goes. */

/** A stream that text is written to, in order, without ever blocking the main thread. */
export interface Sink {
  /**
   * Queues the text. Settles when the kernel has taken it, or nobody reads any more: work that
   * needs no reader does not wait for that.
   */
  write(text: string): Promise<void>;
  readonly isTerminal: boolean;
  /**
   * Whether to use colours: on a terminal that is not dumb (TERM), unless NO_COLOR is set and not
   * empty (no-color.org).
   */
  readonly colors: boolean;
  /** The terminal's width; undefined when it is none. */
  readonly columns: number | undefined;
}

/** Standard output, as a command uses it that serves and logs. */
export interface LogSink extends Sink {
  /** Bytes that the kernel has not taken yet. */
  readonly pending: number;
  /** Settles when no more than `bytes` are pending, or nobody reads any more. */
  room(bytes: number): Promise<void>;
  /** From now on nothing waits for room. */
  endWaiting(): void;
}

/** How to go on when a log cannot be written. */
export interface LostLog {
  /** Nobody reads it any more (EPIPE). Returns whether the command goes on without it. */
  closed(code: string): boolean;
  /** It cannot be written for now, as on a full disk: it is tried again and again. */
  failing(code: string): void;
}
