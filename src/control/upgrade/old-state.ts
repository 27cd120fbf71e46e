/**
 * The decisions of the old process in an upgrade (`old.ts`). Pure.
 *
 * `starting`: the new process was started. `offering`: it gets state, listeners and the socket that
 * owns the rules; the rules are left alone meanwhile. `waiting`: for it to be ready. Until then the
 * old process serves, whatever happens. `trial`: the new process serves, and the old one keeps what
 * it needs to serve again. `draining`: it moves what it has open to the new process, and ends what
 * cannot move. `over`: as if there had been no upgrade.
 */

import { protocolVersion } from "./messages.ts";

export type OldPhase = "starting" | "offering" | "waiting" | "trial" | "draining" | "over";

export type OldInput =
  | { readonly kind: "hello"; readonly protocol: number; readonly version: string }
  /** The new process has received all that was offered. */
  | { readonly kind: "offered" }
  | { readonly kind: "ready" }
  /** It gave up, with the reasons. */
  | { readonly kind: "failed"; readonly lines: readonly string[] }
  /** It has ended, or does not speak with us any more. */
  | { readonly kind: "gone"; readonly reason: string }
  /** The time for the phase is over. */
  | { readonly kind: "timeout" }
  /** The old process is told to stop, by a signal or by the new one. */
  | { readonly kind: "stop" };

export type OldAction =
  /** Leave the rules alone, and send all that the new process needs. */
  | { readonly kind: "offer" }
  /** Receive nothing new, and let the new process do so. */
  | { readonly kind: "hand" }
  /** Serve again: the new process is gone. */
  | { readonly kind: "takeBack" }
  /** Give up what only a server needs, and end what is open: it may move to the new process. */
  | { readonly kind: "drain"; readonly moves: boolean }
  /** Look after the rules again. */
  | { readonly kind: "thaw" }
  /** End the new process. */
  | { readonly kind: "kill" }
  /** It has come to nothing; a line for each reason. */
  | { readonly kind: "report"; readonly lines: readonly string[] };

/** The state after `input`, and what is to be done now, in this order. */
export function nextOld(
  phase: OldPhase,
  input: OldInput,
): readonly [phase: OldPhase, actions: readonly OldAction[]] {
  switch (phase) {
    case "starting":
    case "offering":
    case "waiting":
      return beforeReady(phase, input);
    case "trial":
      return inTrial(phase, input);
    case "draining":
    case "over":
      return [phase, []];
  }
}

function beforeReady(
  phase: OldPhase,
  input: OldInput,
): readonly [phase: OldPhase, actions: readonly OldAction[]] {
  const end = (...lines: readonly string[]) => giveUp(phase, lines);
  switch (input.kind) {
    case "hello":
      if (phase !== "starting") return end("the new process has begun twice");
      if (input.protocol !== protocolVersion) {
        return end(
          `the new process hands over by protocol ${input.protocol}, and this one by ` +
            `${protocolVersion}: restart instead`,
        );
      }
      return ["offering", [{ kind: "offer" }]];
    case "offered":
      return [phase === "offering" ? "waiting" : phase, []];
    case "ready":
      if (phase === "waiting") return ["trial", [{ kind: "hand" }]];
      return end("the new process was ready before it had everything");
    case "failed":
      return end(...input.lines);
    case "gone":
      return end(`the new process has ended: ${input.reason}`);
    case "timeout":
      return end("the new process was not ready in time");
    case "stop":
      return end("this process was told to stop");
  }
}

function giveUp(
  phase: OldPhase,
  lines: readonly string[],
): readonly [phase: OldPhase, actions: readonly OldAction[]] {
  const thaw: readonly OldAction[] = phase === "starting" ? [] : [{ kind: "thaw" }];
  return ["over", [{ kind: "kill" }, ...thaw, { kind: "report", lines }]];
}

function inTrial(
  phase: OldPhase,
  input: OldInput,
): readonly [phase: OldPhase, actions: readonly OldAction[]] {
  switch (input.kind) {
    case "failed":
    case "gone": {
      const why = input.kind === "gone" ? [input.reason] : input.lines;
      const lines = ["the new process has ended, and this one serves again", ...why];
      const actions = [{ kind: "kill" }, { kind: "thaw" }, { kind: "takeBack" }] as const;
      return ["over", [...actions, { kind: "report", lines }]];
    }
    case "timeout":
      return ["draining", [{ kind: "drain", moves: true }]];
    // At a stop nobody serves any more.
    case "stop":
      return ["draining", [{ kind: "drain", moves: false }]];
    default:
      return [phase, []];
  }
}
