/** The keys that somebody types, from the bytes that a terminal sends. Pure. */

/** A key with a name, or one character of text. */
export type Key = { readonly name: KeyName } | { readonly name: "text"; readonly text: string };

export type KeyName =
  | "up"
  | "down"
  | "page-up"
  | "page-down"
  | "home"
  | "end"
  | "enter"
  | "escape"
  | "backspace"
  | "clear"
  | "interrupt";

/** An escape sequence, complete or cut off, or one character. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: terminals send them
const pattern = /\x1b(?:\[[0-?]*[ -/]*[@-~]?|O[ -~]?)?|[^\x1b]/gsu;

const named: Readonly<Record<string, KeyName>> = {
  "\x1b": "escape",
  "\x1b[A": "up",
  "\x1bOA": "up",
  "\x1b[B": "down",
  "\x1bOB": "down",
  "\x1b[5~": "page-up",
  "\x1b[6~": "page-down",
  "\x1b[H": "home",
  "\x1bOH": "home",
  "\x1b[1~": "home",
  "\x1b[F": "end",
  "\x1bOF": "end",
  "\x1b[4~": "end",
  "\r": "enter",
  "\n": "enter",
  "\x7f": "backspace",
  "\b": "backspace",
  "\x15": "clear",
  "\x03": "interrupt",
};

/** The keys of what a terminal has sent at once; sequences of other keys are left out. */
export function keysOf(sent: string): Key[] {
  return [...sent.matchAll(pattern)].flatMap(([each]): Key[] => {
    const name = named[each];
    if (name !== undefined) return [{ name }];
    return /^\P{C}$/u.test(each) ? [{ name: "text", text: each }] : [];
  });
}
