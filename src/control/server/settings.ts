/** How a server is run, whatever it serves. */

import type { ReadConfiguration } from "../../config/file.ts";
import type { User } from "../passwd.ts";
import type { ProcessIo } from "../process-io.ts";
import type { ServerWords } from "./words.ts";

/** How a server is run. */
export interface ServerSettings {
  readonly io: ProcessIo;
  readonly words: ServerWords;
  /** Who the process goes on as once all is set up; undefined: as who it is. */
  readonly user: User | undefined;
  /**
   * There is one service, which nobody has named: the log and the rules name none. It has to have
   * an upstream with an address at the start, and rules that are installed have to do something.
   */
  readonly isNameless: boolean;
  /** Reads the configuration again; undefined: it cannot be. */
  readonly read?: (() => Promise<ReadConfiguration>) | undefined;
}

/** How a new configuration is taken over. */
export interface ApplyOptions {
  /** Resets the connections of services and upstreams that are gone; otherwise they go on. */
  readonly closeRemoved?: boolean;
}
