/** The effect of an expression on a packet. Pure. */

import type { Ternary } from "./bits.ts";
import type { TproxyTarget } from "./state.ts";

/** Anything that goes beyond matching. */
export type Effect =
  | { readonly kind: "mark"; readonly mark: number; readonly known: number }
  | { readonly kind: "connection mark"; readonly mark: number; readonly known: number }
  | { readonly kind: "untracked" }
  /** `xtables`: a mark comes with it, it ends the chain, and it drops if nobody listens. */
  | (TproxyTarget & {
      readonly kind: "tproxy";
      readonly xtables?: { readonly mark: number } | undefined;
    })
  | { readonly kind: "rewrite"; readonly side: "source" | "destination" }
  | { readonly kind: "verdict"; readonly code: number; readonly chain?: string | undefined }
  /** One of several verdicts, since the key of a verdict map is not known. */
  | {
      readonly kind: "verdicts";
      readonly verdicts: readonly { readonly code: number; readonly chain?: string }[];
      readonly mayMiss: boolean;
      readonly reason: string;
    }
  /** It may do anything. */
  | { readonly kind: "unknown"; readonly reason: string };

/**
 * The result of an expression: a condition with the reason if it is unknown; a condition that
 * a limit sets, within which it is as `answer` says; or an effect.
 */
export type Outcome =
  | { readonly kind: "match"; readonly answer: Ternary; readonly reason?: string }
  | { readonly kind: "limit"; readonly answer: Ternary }
  | Effect;

export const matches: Outcome = { kind: "match", answer: "yes" };
export const fails: Outcome = { kind: "match", answer: "no" };

/** An unknown condition, with its reason. */
export function maybe(reason: string): Outcome {
  return { kind: "match", answer: "maybe", reason };
}

/** A condition; `reason` is why it is unknown, if it is. */
export function condition(answer: Ternary, reason: string): Outcome {
  return answer === "maybe" ? maybe(reason) : { kind: "match", answer };
}
