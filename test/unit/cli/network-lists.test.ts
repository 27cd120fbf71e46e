import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadFiles } from "../../../src/cli/input-file.ts";
import { parseNetworkList } from "../../../src/config/networks.ts";
import { formatCidr } from "../../../src/net/cidr.ts";
import { routes } from "../../helpers/routes.ts";

function withFile<T>(text: string, use: (file: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-test-"));
  try {
    const file = join(folder, "list");
    writeFileSync(file, text);
    return use(file);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("a file of networks", () => {
  test("has them between blanks, line breaks and commas, with comments", () => {
    const text = "# a list\n10.0.0.0/8, 192.0.2.1\t2001:db8::/32 # here\r\n\n  8.8.8.8";
    const list = parseNetworkList({ file: "list", text });
    expect(list.ok && list.value.map(formatCidr)).toEqual([
      "10.0.0.0/8",
      "192.0.2.1",
      "2001:db8::/32",
      "8.8.8.8",
    ]);
  });

  test("an error says which line, and what is accepted", () => {
    const result = withFile("8.8.8.8\n10.0.0.1/8\n", (file) =>
      routes("--print", "--dst", `@${file}`),
    );
    expect(result).toMatchObject({ status: 2, stdout: "" });
    expect(result.stderr).toMatch(/list", line 2: "10.0.0.1\/8" has bits set .* "10.0.0.0\/8"/);
  });

  test("an empty one is refused: it would capture everything", () => {
    const result = withFile("# nothing\n", (file) => routes("--print", "--dst", `@${file}`));
    expect(result.stderr).toContain("has no network in it");
  });

  test("that is not there, or has no end, is refused in one line", async () => {
    const load = (file: string) => loadFiles({ bypass: [[{ file }]] });
    await expect(load("/nonexistent/list")).rejects.toThrow(
      'Cannot read "@/nonexistent/list": ENOENT; give a readable file',
    );
    await expect(load("/dev/zero")).rejects.toThrow(
      'Cannot read "@/dev/zero": more than 16777216 bytes; give a readable file',
    );
    await expect(load("/")).rejects.toThrow('Cannot read "@/": EISDIR; give a readable file');
  });

  test("amounts to what the option would, with others beside it", () => {
    const plain = routes("--print", "--dst", "8.8.8.8,192.0.2.0/24");
    const read = withFile("192.0.2.0/24", (file) => routes("--print", "--dst", `8.8.8.8,@${file}`));
    expect(read).toEqual(plain);
  });
});

test("standard input is read by one option only", async () => {
  const options = { dst: [[{ file: "-" }]], bypass: [[{ file: "-" }]] };
  await expect(loadFiles(options)).rejects.toThrow(
    'standard input can be read once: give "@-" to one option only',
  );
});
