/** The rules of all services of a server: installed while one of them needs any. */

import * as sys from "../../../ffi/sys.ts";
import type { HeldPart } from "../../capture/live/hold.ts";
import type { Intent } from "../../capture/plan/intent.ts";
import type { ServiceIntent } from "../../capture/plan/joint-plan.ts";
import type { Configuration } from "../../config/service.ts";
import type { MaskedMark } from "../../net/mark.ts";
import { HeldCapture, type TakenCapture, type Telling } from "../held-capture.ts";
import type { RetiredPaths } from "../kernel-path/retired-paths.ts";
import type { Identified, IdentityRequest } from "../routes-context.ts";
import { socketMark } from "./captures.ts";
import { intentsOf } from "./capturing.ts";
import { nothingToCapture } from "./issues.ts";
import type { OpenService } from "./running-service.ts";
import type { ServerSettings } from "./settings.ts";

export class InstalledRules {
  /** Rules carry the names of their services. */
  private readonly isNamed: boolean;
  private readonly telling: Telling;
  private capture: HeldCapture | undefined;
  /** The last one that was released. */
  private released: HeldCapture | undefined;
  /** Connections that are left alone, by their marks: set before the rules are installed. */
  leaves: readonly MaskedMark[] = [];
  /** The kernel path carries connections: set before the rules are installed. */
  isBesideNat = false;

  /** `say` logs a line. */
  constructor(
    { io, words, isNameless }: Pick<ServerSettings, "io" | "words" | "isNameless">,
    say: (line: string) => void,
  ) {
    this.isNamed = !isNameless;
    this.telling = { io, spell: words.setting, say };
  }

  /** The Intents in force; empty: nothing is installed. */
  get intents(): readonly Intent[] {
    return this.capture?.intents.map(({ intent }) => intent) ?? [];
  }

  /** How often rules that another program had removed were restored. */
  get repairs(): number {
    return this.capture?.repairs ?? 0;
  }

  /**
   * Installs the rules of these services instead of those that are there, or of those that an old
   * process has handed over (`taken`), or has left (`retired`); the changes, a line each.
   * @throws ServiceProblem, CommandError: nothing was changed
   */
  async install(
    configuration: Configuration,
    services: readonly OpenService[],
    taken?: TakenCapture,
    retired?: Pick<RetiredPaths, "messages">,
  ): Promise<readonly string[]> {
    const { capture, isNamed, leaves, isBesideNat } = this;
    const beside = { ...(leaves.length > 0 && { leaves }), ...(isBesideNat && { isBesideNat }) };
    const build = (identified: Identified) =>
      checked(services, identified, isNamed).map(
        (each): ServiceIntent => ({ ...each, intent: { ...each.intent, ...beside } }),
      );
    const request = identityOf(configuration);
    const isWanted = configuration.routes.install === "auto";
    if (!isWanted || build({ request, takenBits: 0 }).length === 0) {
      const [only] = services;
      if (isWanted && !isNamed && only !== undefined) throw nothingToCapture(only.service);
      this.release();
      if (taken !== undefined) sys.close(taken.fd);
      return [];
    }
    if (capture !== undefined) return await capture.change(build);
    this.capture = await HeldCapture.apply(request, build, this.telling, { taken, retired });
    return this.capture.changes;
  }

  /** The rules in force, by kind; empty: none ever were. */
  get parts(): readonly HeldPart[] {
    return (this.capture ?? this.released)?.parts ?? [];
  }

  /** Whether anything is installed. */
  get isInstalled(): boolean {
    return this.capture !== undefined;
  }

  /** Returns what a new process needs to take them over; until `thaw` nothing is repaired. */
  lend(): TakenCapture | undefined {
    return this.capture?.lend();
  }

  /** Restores and repairs them again. */
  thaw(): void {
    this.capture?.thaw();
  }

  /** Leaves them to another process, which has them now. */
  abandon(): void {
    this.capture?.abandon();
    this.capture = undefined;
  }

  /** Lets open connections go on, and captures nothing new. */
  drain(): void {
    this.capture?.drain();
  }

  /** Removes all of it. A second time it does nothing. */
  release(): void {
    this.capture?.release();
    this.released = this.capture ?? this.released;
    this.capture = undefined;
  }
}

/** The Intents, none of which would capture our own connections. @throws ServiceProblem */
function checked(
  services: readonly OpenService[],
  identified: Identified,
  isNamed: boolean,
): ServiceIntent[] {
  const found = intentsOf(services, identified, isNamed);
  const intents = found.map(({ intent }) => intent);
  for (const { service } of services) socketMark(service, intents);
  return found;
}

function identityOf({ routes }: Configuration): IdentityRequest {
  const { mark, table, priority } = routes;
  return { mark, table, priority, tableName: routes["table-name"] } as IdentityRequest;
}
