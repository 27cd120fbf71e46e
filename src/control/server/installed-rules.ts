/** The rules of all services of a server: installed while one of them needs any. */

import * as sys from "../../../ffi/sys.ts";
import type { Intent } from "../../capture/plan/intent.ts";
import type { ServiceIntent } from "../../capture/plan/joint-plan.ts";
import type { Configuration } from "../../config/service.ts";
import { HeldCapture, type TakenCapture } from "../held-capture.ts";
import type { ProcessIo } from "../process-io.ts";
import type { Identified, IdentityRequest } from "../routes-context.ts";
import { socketMark } from "./captures.ts";
import { intentsOf } from "./capturing.ts";
import { nothingToCapture } from "./issues.ts";
import type { OpenService } from "./running-service.ts";

export class InstalledRules {
  private readonly io: ProcessIo;
  /** Rules carry the names of their services. */
  private readonly isNamed: boolean;
  private readonly say: (line: string) => void;
  private capture: HeldCapture | undefined;

  constructor(io: ProcessIo, isNamed: boolean, say: (line: string) => void) {
    this.io = io;
    this.isNamed = isNamed;
    this.say = say;
  }

  /** What is captured; empty: nothing is installed. */
  get intents(): readonly Intent[] {
    return this.capture?.intents.map(({ intent }) => intent) ?? [];
  }

  /** How often something was put back that another program had removed. */
  get repairs(): number {
    return this.capture?.repairs ?? 0;
  }

  /**
   * Installs the rules of these services instead of those that are there, or of those that an old
   * process has handed over (`taken`); the changes, a line each.
   * @throws ServiceProblem, CommandError: nothing was changed
   */
  async install(
    configuration: Configuration,
    services: readonly OpenService[],
    taken?: TakenCapture,
  ): Promise<readonly string[]> {
    const { capture, isNamed } = this;
    const build = (identified: Identified) => checked(services, identified, isNamed);
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
    this.capture = await HeldCapture.apply(request, build, this.io, this.say, taken);
    return this.capture.changes;
  }

  /** Whether anything is installed. */
  get isInstalled(): boolean {
    return this.capture !== undefined;
  }

  /** What a new process needs to go on with them; until `thaw` they are left alone. */
  lend(): TakenCapture | undefined {
    return this.capture?.lend();
  }

  /** Looks after them again. */
  thaw(): void {
    this.capture?.thaw();
  }

  /** Lets go of them: another process has them. */
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
