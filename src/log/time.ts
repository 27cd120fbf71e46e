/** The time in front of a line of the text log. */

/** The clock that it is of; `none`: the reader of the log adds a time to each line. */
export type LogTime = "local" | "utc" | "none";

export const logTimes = ["local", "utc", "none"] as const;

/**
 * Makes what stands in front of a line for a time in ms since 1970, with a blank behind it: ISO
 * 8601 with milliseconds and the offset from UTC, `2026-11-27T15:04:05.678+01:00`. Within one
 * second only the milliseconds are made anew.
 */
export function timeStamp(clock: LogTime): (time: number) => string {
  if (clock === "none") return () => "";
  if (clock === "utc") return (time) => `${new Date(time).toISOString()} `;
  let second = Number.NaN;
  let head = "";
  let tail = "";
  return (time) => {
    const now = Math.floor(time / 1000);
    if (now !== second) {
      second = now;
      const offset = -new Date(now * 1000).getTimezoneOffset();
      head = new Date((now + offset * 60) * 1000).toISOString().slice(0, -5);
      tail = offsetText(offset);
    }
    const ms = String(Math.floor(time) - now * 1000).padStart(3, "0");
    return `${head}.${ms}${tail} `;
  };
}

function offsetText(minutes: number): string {
  const hours = String(Math.floor(Math.abs(minutes) / 60)).padStart(2, "0");
  const rest = String(Math.abs(minutes) % 60).padStart(2, "0");
  return `${minutes < 0 ? "-" : "+"}${hours}:${rest}`;
}
