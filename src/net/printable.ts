/** Text from elsewhere, made safe to show on a terminal and to stand in a line of a log. */

/**
 * What a terminal acts on, does not show, or takes for the end of a line: control characters (C0,
 * DEL, C1), formatting ones such as those that change the direction of writing, line and paragraph
 * separators, and what is assigned to nothing.
 */
const UNSAFE = /[\p{C}\p{Zl}\p{Zp}]/gu;

/**
 * Received bytes as UTF-8 text that ends with a newline: line ends as they are, and every other
 * control character escaped, since a peer must not be able to drive the reader's terminal.
 */
export function printable(bytes: Uint8Array): string {
  if (bytes.length === 0) return "";
  const text = printLines(new TextDecoder().decode(bytes).replace(/\r\n/g, "\n"));
  return text.endsWith("\n") ? text : `${text}\n`;
}

/** Text that others named or wrote, as one line: line ends are escaped as well. */
export function printLine(text: string): string {
  return text.replace(UNSAFE, escaped);
}

/** Text of several lines: all that is unsafe is escaped, except for newlines and tabs. */
export function printLines(text: string): string {
  return text.replace(UNSAFE, (character) =>
    character === "\n" || character === "\t" ? character : escaped(character),
  );
}

/** The styles of our own output and of the help pages: none that hides text. */
const STYLE = "(?:[0-4]|2[2-4]|3[0-79]|9[0-7])";
const OWN_COLORS = new RegExp(String.raw`\u001b\[${STYLE}(?:;${STYLE})*m|${UNSAFE.source}`, "gu");

/** The same as `printLines`, with the colours of our own output left in. */
export function printColored(text: string): string {
  return text.replace(OWN_COLORS, (match) =>
    match.length > 2 || match === "\n" || match === "\t" ? match : escaped(match),
  );
}

/** A value as JSON without any unsafe character: parsed, it is the same value. */
export function printJson(value: unknown, space?: number): string {
  const json = JSON.stringify(value, undefined, space);
  // Within JSON newlines are the layout's: those of strings have been escaped already.
  return json.replace(UNSAFE, (character) =>
    character === "\n" ? character : [...unitsOf(character)].map(unicodeEscape).join(""),
  );
}

function escaped(character: string): string {
  const code = character.codePointAt(0) as number;
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
}

function* unitsOf(character: string): Generator<number> {
  for (let i = 0; i < character.length; i++) yield character.charCodeAt(i);
}

function unicodeEscape(unit: number): string {
  return `\\u${unit.toString(16).padStart(4, "0")}`;
}
