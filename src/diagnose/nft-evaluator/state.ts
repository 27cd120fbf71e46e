/** The state that a packet carries from rule to rule and from hook to hook. Pure. */

/** Where TPROXY wants to hand a packet to. */
export interface TproxyTarget {
  /** Undefined: the primary address of the interface it came by. */
  readonly address: Uint8Array | undefined;
  readonly port: number;
}

/** A rule and what it did. */
export interface Touch {
  /** `inet filter input handle 7`, or a base chain whose policy it was. */
  readonly rule: string;
  readonly comment?: string;
  readonly isPolicy?: true;
  /** A rule of iptables' older kind. */
  readonly isLegacy?: true;
  /** It asks the routes whether the packet's source could be answered the same way. */
  readonly isReversePath?: true;
  /** The base chain that it was met in. */
  readonly base?: string;
}

/** A rule whose match or effect is unknown, and why. */
export interface Doubt extends Touch {
  readonly reason: string;
  /** Which of the ways it may go was followed. */
  readonly branch: string;
}

/** A rule that replaces an address of the packet. */
export interface Rewrite extends Touch {
  readonly side: "source" | "destination";
}

/** A packet between two rules. */
export interface PacketState {
  readonly mark: number;
  /** The bits of the mark that are known. */
  readonly markKnown: number;
  /** The mark of the connection. */
  readonly ctMark: number;
  readonly ctMarkKnown: number;
  /** Connection tracking leaves it alone. */
  readonly untracked: boolean;
  /** Rules that set the mark, in their order. */
  readonly marking: readonly (Touch & { readonly mark: number })[];
  readonly tproxy: (Touch & TproxyTarget) | undefined;
  /** A TPROXY rule that found no transparent listener. */
  readonly missed: (Touch & TproxyTarget) | undefined;
  readonly rewritten: readonly Rewrite[];
  /** Rules that let a limited number of packets through, or drop what is above it. */
  readonly limited: readonly Touch[];
  /** The assumptions made on the way. */
  readonly doubts: readonly Doubt[];
}

const all32 = 0xffff_ffff;

/** A packet that no rule has seen; `mark` is its socket's, or what an earlier hook has set. */
export function freshState(mark = 0): PacketState {
  return {
    mark,
    markKnown: all32,
    ctMark: 0,
    ctMarkKnown: all32,
    untracked: false,
    marking: [],
    tproxy: undefined,
    missed: undefined,
    rewritten: [],
    limited: [],
    doubts: [],
  };
}

/** All of a state that later rules, the routes or the checks look at, as one word. */
function effectOf(state: PacketState): string {
  const { mark, markKnown, ctMark, ctMarkKnown, untracked, tproxy, missed, rewritten } = state;
  const names = [tproxy?.rule, missed?.rule, ...rewritten.map(({ rule }) => rule)];
  return [mark, markKnown, ctMark, ctMarkKnown, untracked, ...names].join("|");
}

/**
 * States that differ only in how they came about are one: what they doubt of each other made no
 * difference.
 */
export function mergeStates(states: readonly PacketState[]): PacketState[] {
  if (states.length < 2) return [...states];
  const merged = new Map<string, PacketState>();
  for (const state of states) {
    const key = effectOf(state);
    const same = merged.get(key);
    merged.set(key, same === undefined ? state : joined(same, state));
  }
  return [...merged.values()];
}

function joined(one: PacketState, other: PacketState): PacketState {
  const shared = one.doubts.filter(({ rule, branch }) =>
    other.doubts.some((each) => each.rule === rule && each.branch === branch),
  );
  const [shorter] = [one, other].toSorted((a, b) => a.marking.length - b.marking.length);
  return { ...(shorter as PacketState), doubts: shared };
}

/** Notes that a rule is taken to have gone one way of several. */
export function withDoubt(
  state: PacketState,
  touch: Touch,
  reason: string,
  branch: string,
): PacketState {
  const others = state.doubts.filter(({ rule }) => rule !== touch.rule);
  return { ...state, doubts: [...others, { ...touch, reason, branch }] };
}
