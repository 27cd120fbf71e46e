/**
 * The reason phrases of the statuses that we answer with (RFC 9110). Not those of node:http, which
 * takes its time and memory to load. Numbers and words alone.
 */

const texts: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  411: "Length Required",
  413: "Content Too Large",
  421: "Misdirected Request",
  422: "Unprocessable Content",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  503: "Service Unavailable",
  505: "HTTP Version Not Supported",
};

/** The reason phrase of a status; empty for one that is not known. */
export function statusText(status: number): string {
  return texts[status] ?? "";
}
