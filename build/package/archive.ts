/** The archives that packages are made of: tar and ar. The same files give the same bytes. */

/** One file of a package. Directories are made as they are needed. */
export interface PackedFile {
  /** From the root of the package, without a leading slash. */
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly mode: number;
  /** A file that the administrator may change and that an upgrade keeps. */
  readonly isConfiguration?: boolean;
}

const BLOCK = 512;

/**
 * A tar archive (ustar) of the files and the directories above them, with `prefix` before each. All
 * belong to root and are of `time`, in seconds since 1970.
 */
export function makeTar(files: readonly PackedFile[], time: number, prefix = ""): Uint8Array {
  const parts: Uint8Array[] = [];
  const directories = new Set<string>();
  for (const { path, bytes, mode } of files) {
    for (const directory of directoriesOf(prefix + path)) {
      if (directories.has(directory)) continue;
      directories.add(directory);
      parts.push(tarHeader(directory, "5", 0o755, 0, time));
    }
    parts.push(tarHeader(prefix + path, "0", mode, bytes.length, time), bytes);
    parts.push(new Uint8Array((BLOCK - (bytes.length % BLOCK)) % BLOCK));
  }
  return Buffer.concat([...parts, new Uint8Array(2 * BLOCK)]);
}

/** `a/`, `a/b/` of `a/b/c`; `./` is one of them where paths begin with it. */
function directoriesOf(path: string): string[] {
  const names = path.split("/").slice(0, -1);
  return names.map((_, index) => `${names.slice(0, index + 1).join("/")}/`);
}

function tarHeader(
  path: string,
  type: "0" | "5",
  mode: number,
  size: number,
  time: number,
): Uint8Array {
  if (Buffer.byteLength(path) > 100) throw new Error(`${path} is too long for a tar header`);
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, length: number) =>
    header.write(`${value.toString(8).padStart(length - 1, "0")}\0`, at);
  header.write(path, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(time, 136, 12);
  header.write("        ", 148);
  header.write(type, 156);
  header.write("ustar\x0000", 257);
  header.write("root", 265);
  header.write("root", 297);
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return header;
}

/** An ar archive, as a .deb is one: members one after the other, each from an even offset. */
export function makeAr(
  members: readonly (readonly [name: string, bytes: Uint8Array])[],
  time: number,
): Uint8Array {
  const parts: Uint8Array[] = [Buffer.from("!<arch>\n")];
  for (const [name, bytes] of members) {
    const fields = [name.padEnd(16), String(time).padEnd(12), "0".padEnd(6), "0".padEnd(6)];
    const size = String(bytes.length).padEnd(10);
    parts.push(Buffer.from(`${fields.join("")}${"100644".padEnd(8)}${size}\`\n`), bytes);
    if (bytes.length % 2 === 1) parts.push(Buffer.from("\n"));
  }
  return Buffer.concat(parts);
}
