import { expect, test } from "bun:test";
import { keysOf } from "../../../../src/cli/top/keys.ts";

const named = (sent: string) =>
  keysOf(sent).map((key) => (key.name === "text" ? key.text : key.name));

test("keys of terminals in both of their modes, several at once, and text", () => {
  expect(named("\x1b[A\x1bOBx\x1b[5~\x1b[6~\x1b[H\x1b[4~")).toEqual([
    ...["up", "down", "x", "page-up", "page-down", "home", "end"],
  ]);
  expect(named("q\r\x7f\x15\x03")).toEqual(["q", "enter", "backspace", "clear", "interrupt"]);
  expect(named("\x1b")).toEqual(["escape"]);
  expect(named("ä€😀")).toEqual(["ä", "€", "😀"]);
});

test("sequences of other keys, and what is no text, are left out", () => {
  expect(named("\x1b[1;5C\x1b[200~a\x1b[201~\x1bOP\x00\x07")).toEqual(["a"]);
});
