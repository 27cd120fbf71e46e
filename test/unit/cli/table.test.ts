import { expect, test } from "bun:test";
import fc from "fast-check";
import { type Column, tableText } from "../../../src/cli/table.ts";

const columns: Column[] = [
  { title: "NAME" },
  { title: "OPEN", align: "right" },
  { title: "STATE", isOptional: true },
  { title: "ADDRESS", isOptional: true },
];

test("numbers are on the right, and nothing hostile reaches the terminal", () => {
  const rows = [
    ["web", "7", "up", "192.0.2.1:80"],
    ["\u001b[31mdns\n", "1000", "down", ""],
  ];
  expect(tableText(columns, rows, undefined)).toBe(
    [
      "NAME             OPEN  STATE  ADDRESS",
      "web                 7  up     192.0.2.1:80",
      "\\x1b[31mdns\\x0a  1000  down",
      "",
    ].join("\n"),
  );
});

test("the last optional columns go first, then the widest are shortened", () => {
  const rows = [["a-service-with-a-long-name", "7", "up", "192.0.2.1:80"]];
  expect(tableText(columns, rows, 40)).toBe(
    "NAME                        OPEN  STATE\na-service-with-a-long-name     7  up\n",
  );
  expect(tableText(columns, rows, 20)).toBe("NAME            OPEN\na-service-wit…     7\n");
});

test("every line fits, whatever there is, and no row is lost", () => {
  const cell = fc.string({ unit: fc.constantFrom("a", "字", "\t", "é", " ", "\u202e") });
  const row = fc.tuple(cell, cell, cell, cell);
  fc.assert(
    fc.property(fc.array(row), fc.integer({ min: 20, max: 120 }), (rows, room) => {
      const lines = tableText(columns, rows, room).split("\n");
      expect(lines.length).toBe(rows.length + 2);
      for (const line of lines) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(room);
    }),
  );
});
