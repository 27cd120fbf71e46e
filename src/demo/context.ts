/** The input of every scenario. */

import type { Step } from "../capture/plan/steps.ts";
import { findProgram } from "../control/programs.ts";
import type { Report } from "./report.ts";
import type { Setting } from "./server.ts";
import type { Host } from "./topology-builder.ts";

/** The host's tools that the demo uses; injected, so that tests can take them away. */
export interface Means {
  /** The path of a program, or undefined. */
  readonly findProgram: (name: string) => string | undefined;
  /** Carries out a step of a Plan in a host. @throws NetlinkError */
  readonly perform: (host: Host, step: Step) => void;
}

/** The machine as it is. */
export const ownMeans: Means = {
  findProgram,
  perform: (host, step) => host.control.perform(step),
};

export interface Context {
  readonly report: Report;
  readonly setting: Setting;
  readonly means: Means;
}

/** A part of the story, played on a stage of its own. */
export interface Scenario {
  readonly title: string;
  readonly intro: string;
  /** Why it cannot be played here; undefined if it can. */
  readonly obstacle?: () => string | undefined;
  /** Makes its claims. @throws Interrupted, and SyscallError where the stage cannot be set */
  readonly play: (context: Context) => Promise<void>;
}
