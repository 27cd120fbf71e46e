import { lineBreak, type Message, text } from "@optique/core/message";

/** The examples under a help page: command lines to be pasted, each below what it does. */
export function examplesFooter(
  examples: readonly (readonly [line: string, what: string])[],
): Message {
  return [
    text("Examples:"),
    ...examples.flatMap(([line, what]) => [
      ...[lineBreak(), text(`  # ${what}`)],
      ...[lineBreak(), text(`  ${line}`)],
    ]),
  ];
}
