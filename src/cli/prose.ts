import { type Message, message } from "@optique/core/message";

/**
 * A message for help texts, as the tag `message` of @optique makes it, with each line break of the
 * source and the blanks around it read as one blank: the terminal's width decides where lines end.
 */
export function prose(
  strings: TemplateStringsArray,
  ...values: Parameters<typeof message> extends [unknown, ...infer Rest] ? Rest : never
): Message {
  const flowing = strings.map((part) => part.replace(/\s*\n\s*/g, " "));
  return message(Object.assign(flowing, { raw: flowing }), ...values);
}
