/** Text for man pages. Pure. */

/** Text as roff reads it: no line begins a request, and dashes and backslashes stay themselves. */
export function escaped(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/gm, "\\&$1");
}
