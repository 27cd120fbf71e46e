/** Amounts as people read them, short enough for a column. Pure. */

const thousands = ["", "k", "M", "G", "T"] as const;

/** `412`, `1.9k`, `12M`. */
export function countText(count: number): string {
  return scaled(count, "");
}

/** `0 B`, `14 kB`, `9.8 MB`. */
export function bytesText(bytes: number): string {
  return scaled(bytes, " ", "B");
}

/** `14 kB/s`. */
export function rateText(bytesPerSecond: number): string {
  return `${bytesText(bytesPerSecond)}/s`;
}

/** Events in a second: `0`, `0.5`, `38`. */
export function frequencyText(perSecond: number): string {
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : countText(Math.round(perSecond));
}

/** The two largest units of a time in ms: `250 ms`, `12 s`, `4 min 5 s`, `3 d 4 h`. */
export function timeText(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ] as const;
  const first = parts.findIndex(([count]) => count > 0);
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(" ");
}

function scaled(value: number, gap: string, unit = ""): string {
  let scale = 0;
  let rest = Math.max(0, value);
  // Rounded it would have four digits.
  while (rest >= 999.5 && scale < thousands.length - 1) {
    rest /= 1000;
    scale++;
  }
  const digits = scale > 0 && rest < 9.95 ? rest.toFixed(1) : String(Math.round(rest));
  return `${digits}${gap}${thousands[scale]}${unit}`;
}
