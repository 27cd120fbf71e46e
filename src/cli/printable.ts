/** Text from elsewhere, made safe to show on a terminal. */

/**
 * Received bytes as UTF-8 text that ends with a newline: line ends as they are, and every other
 * control character escaped, since a peer must not be able to drive the reader's terminal.
 */
export function printable(bytes: Uint8Array): string {
  if (bytes.length === 0) return "";
  const text = escapeControls(new TextDecoder().decode(bytes).replace(/\r\n/g, "\n"));
  return text.endsWith("\n") ? text : `${text}\n`;
}

/** Escapes what a terminal acts on or does not show, except for newlines and tabs. */
export function escapeControls(text: string): string {
  return text.replace(/[^\n\t\P{C}]/gu, (character) => {
    const code = character.codePointAt(0) as number;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}
