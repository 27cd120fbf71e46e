/**
 * The decisions of a process that holds a set-up (`hold.ts`). Pure.
 *
 * `pending`: in force, and removed at the deadline unless it is confirmed. A session that hangs
 * up meanwhile is ignored: the user may be on the way back, and the deadline does its work without
 * one. `held`: in force until the process ends. `over`: nothing is left to do.
 */

export type HoldPhase = "pending" | "held" | "over";

export interface HoldState {
  readonly phase: HoldPhase;
  /** When it is removed unless confirmed; on the clock of `nowMs`. */
  readonly deadlineMs: number | undefined;
  /** Whether it stays held once it is confirmed, or is left to itself. */
  readonly staysHeld: boolean;
  /** When the system was last repaired; not before a time: see `repairsMax`. */
  readonly repairsMs: readonly number[];
  /** Something has changed that nobody has looked at yet. */
  readonly unseen: boolean;
}

export type HoldInput =
  | {
      readonly kind: "tick";
      readonly nowMs: number;
      /** Somebody has changed rules or routes since the last tick. */
      readonly heard: boolean;
      /** The table that `--confirm` makes is there. */
      readonly isConfirmed: boolean;
    }
  /** It had to be repaired, or `failed` to be looked at. */
  | { readonly kind: "repaired"; readonly nowMs: number; readonly failed: boolean }
  | { readonly kind: "signal"; readonly name: HoldSignal };

export type HoldSignal = "SIGHUP" | "SIGINT" | "SIGTERM" | "EPIPE";

/**
 * `look`: compare the system with the Plan and repair it. `keep`: leave it in force.
 * `confirm`: from here on it is held without a deadline. `expire`: take all back, since nobody
 * confirmed. `abandon`: remove everything, since a signal ends the process. `release`: end the
 * hold.
 */
export type HoldAction = "look" | "keep" | "confirm" | "expire" | "abandon" | "release";

/** More repairs than this within the window, and the next one waits until the window has passed. */
const repairsMax = 5;
const repairWindowMs = 5000;

/** The state after applying. */
export function startHold(staysHeld: boolean, deadlineMs: number | undefined): HoldState {
  const phase = deadlineMs === undefined ? "held" : "pending";
  return { phase, deadlineMs, staysHeld, repairsMs: [], unseen: false };
}

/** The state after `input`, and what is to be done now. */
export function nextHold(
  state: HoldState,
  input: HoldInput,
): readonly [state: HoldState, action: HoldAction | undefined] {
  if (state.phase === "over") return [state, undefined];
  switch (input.kind) {
    case "repaired":
      return [
        {
          ...state,
          repairsMs: [...state.repairsMs, input.nowMs],
          unseen: state.unseen || input.failed,
        },
        undefined,
      ];
    case "signal":
      return onSignal(state, input.name);
    case "tick":
      return onTick(state, input);
  }
}

function onSignal(state: HoldState, name: HoldSignal): ReturnType<typeof nextHold> {
  const over = { ...state, phase: "over" } as const;
  if (state.phase === "held") return [over, "release"];
  const isHangup = name === "SIGHUP" || name === "EPIPE";
  return isHangup ? [state, undefined] : [over, "abandon"];
}

function onTick(
  state: HoldState,
  { nowMs, heard, isConfirmed }: Extract<HoldInput, { kind: "tick" }>,
): ReturnType<typeof nextHold> {
  const over = { ...state, phase: "over" } as const;
  if (state.phase === "pending" && isConfirmed) {
    if (!state.staysHeld) return [over, "keep"];
    return [{ ...state, phase: "held", deadlineMs: undefined, unseen: true }, "confirm"];
  }
  if (state.deadlineMs !== undefined && nowMs >= state.deadlineMs) return [over, "expire"];
  const repairsMs = state.repairsMs.filter((at) => at > nowMs - repairWindowMs);
  const unseen = state.unseen || heard;
  if (!unseen || repairsMs.length >= repairsMax)
    return [{ ...state, repairsMs, unseen }, undefined];
  return [{ ...state, repairsMs, unseen: false }, "look"];
}
