/** The whole terminal for one program: raw keys and the alternate screen, until `close`. */

import { writeSync } from "node:fs";
import { type Key, keysOf } from "./keys.ts";
import type { Size } from "./render.ts";

const enter = "\x1b[?1049h\x1b[?25l";
const leave = "\x1b[?25h\x1b[?1049l";
/** The text between them appears at once, on terminals that support it. */
const beginFrame = "\x1b[?2026h\x1b[H";
const endFrame = "\x1b[J\x1b[?2026l";

export interface ScreenOwner {
  pressed(key: Key): void;
  resized(): void;
}

export class Screen {
  private readonly owner: ScreenOwner;
  private isOpen = false;
  private readonly onData = (bytes: Buffer) => {
    for (const key of keysOf(bytes.toString())) this.owner.pressed(key);
  };
  private readonly onResize = () => this.owner.resized();
  private readonly onContinue = () => {
    // A shell that has stopped the process has set the terminal to its own modes.
    process.stdin.setRawMode(true);
    write(enter);
    this.owner.resized();
  };

  constructor(owner: ScreenOwner) {
    this.owner = owner;
  }

  open(): void {
    this.isOpen = true;
    process.stdin.setRawMode(true);
    process.stdin.on("data", this.onData);
    process.stdout.on("resize", this.onResize);
    process.on("SIGCONT", this.onContinue);
    write(enter);
  }

  get size(): Size {
    return { columns: process.stdout.columns || 80, rows: process.stdout.rows || 24 };
  }

  draw(lines: readonly string[]): void {
    if (!this.isOpen) return;
    write(`${beginFrame}${lines.map((line) => `${line}\x1b[K`).join("\r\n")}${endFrame}`);
  }

  /** Gives the terminal back as it was. It may be called at any time, and more than once. */
  close(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    process.stdin.off("data", this.onData);
    process.stdout.off("resize", this.onResize);
    process.off("SIGCONT", this.onContinue);
    write(leave);
    try {
      process.stdin.setRawMode(false);
    } catch {
      // The terminal is gone.
    }
    process.stdin.pause();
  }
}

/** Writes at once: at the end of the process nothing would be written later. */
function write(text: string): void {
  try {
    writeSync(1, text);
  } catch {
    // The terminal is gone, or is not read: the next frame is as good.
  }
}
