/** The report of an unexpected error, or of one before everything else is loaded. Pure. */

/** How many frames of the stack a report has. */
const framesMax = 8;

/**
 * The lines for standard error, the first of them about what to change where that is known. A
 * runtime would print the source around, which is one line of 100,000 characters in a build.
 */
export function faultText(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [first = ""] = message.split("\n", 1);
  // JavaScriptCore found no executable memory at its start; bun:ffi compiles its calls there.
  if (first.includes("requires the JIT")) {
    return (
      "tproxy: this process may not make executable memory, which its system calls need: set " +
      "MemoryDenyWriteExecute=no in the service, allow execmem to its SELinux domain, or raise a " +
      "limit on its address space (LimitAS=, ulimit -v) to 4 GB\n"
    );
  }
  // A process finds itself there as long as /proc is mounted at all: an empty container has none.
  if (/^ENOENT\b.*'\/proc\/(thread-)?self\//.test(first)) {
    return "tproxy: /proc is not mounted here, and this command reads it\n";
  }
  if (first.startsWith("no usable libc")) return `tproxy: ${first}\n`;
  const stack = error instanceof Error ? (error.stack ?? "") : "";
  const frames = stack.split("\n").filter((line) => /^\s+at /.test(line));
  const lines = [`tproxy: internal error: ${first}`, ...frames.slice(0, framesMax)];
  return `${lines.join("\n")}\n`;
}
