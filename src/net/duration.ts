import { ok, type Parsed, quote, refuse } from "./result.ts";

/** The longest delay that a timer takes, in ms: 2^31 - 1, almost 25 days. */
const durationMsMax = 0x7fffffff;

const units = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 } as const;

/** Parses a duration such as `500ms`, `30s`, `5m` or `1h` into milliseconds. */
export function parseDuration(text: string): Parsed<number> {
  const parts = /^([0-9]{1,10})(ms|s|m|h)?$/.exec(text);
  if (parts === null) {
    return refuse(`${quote(text)} is not a duration: give "500ms", "30s", "5m" or "1h"`);
  }
  const unit = parts[2] as keyof typeof units | undefined;
  if (unit === undefined) {
    return refuse(`${quote(text)} has no unit: give "${text}s" or "${text}ms"`);
  }
  const ms = Number(parts[1]) * units[unit];
  if (ms > durationMsMax) {
    return refuse(
      `${quote(text)} is too long: give at most "${Math.floor(durationMsMax / units.h)}h"`,
    );
  }
  return ok(ms);
}

/** The text of a duration in ms, in the largest unit that loses nothing: 90000 is `90s`. */
export function formatDuration(ms: number): string {
  for (const [unit, size] of Object.entries(units)) {
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return "0s";
}
