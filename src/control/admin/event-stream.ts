/**
 * Server-Sent Events that a slow reader cannot pile up: an event that comes before the one before
 * it was taken is dropped, or waits in a queue of bounded length.
 */

import { printJson } from "../../net/printable.ts";
import { adminCommentMs, streamEventsMax } from "./limits.ts";

/** Where events are put, until `onClose` is called. */
export interface EventSink {
  /** Sends an event if the reader has taken the one before; false: it was dropped. */
  offer(event: string, data: unknown): boolean;
  /** Sends an event as soon as there is room; of too many that wait, the oldest are dropped. */
  push(event: string, data: unknown): void;
  /** No more will come. */
  end(): void;
}

/**
 * The response with a stream of events. `begin` is called at once; it returns what to do when the
 * reader has gone. A comment is sent whenever nothing else was for a while.
 */
export function eventStream(begin: (sink: EventSink) => () => void): Response {
  let close = () => {};
  let comments: ReturnType<typeof setInterval> | undefined;
  const encoder = new TextEncoder();
  const waiting: string[] = [];
  let lost = 0;
  let isIdle = true;
  const stop = () => {
    clearInterval(comments);
    close();
  };
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const hasRoom = () => (controller.desiredSize ?? 0) > 0;
        const send = (text: string) => {
          isIdle = false;
          controller.enqueue(encoder.encode(text));
        };
        close = begin({
          offer(event, data) {
            if (!hasRoom()) return false;
            send(eventText(event, data));
            return true;
          },
          push(event, data) {
            if (hasRoom() && waiting.length === 0) return send(eventText(event, data));
            waiting.push(eventText(event, data));
            if (waiting.length <= streamEventsMax) return;
            waiting.shift();
            lost++;
          },
          end() {
            clearInterval(comments);
            controller.close();
          },
        });
        comments = setInterval(() => {
          if (isIdle && hasRoom()) send(": nothing new\n\n");
          isIdle = true;
        }, adminCommentMs);
      },
      pull(controller) {
        if (waiting.length === 0) return;
        const notice = lost > 0 ? eventText("lost", { lines: lost }) : "";
        lost = 0;
        isIdle = false;
        controller.enqueue(encoder.encode(notice + waiting.splice(0, batchMax).join("")));
      },
      cancel: stop,
    },
    { highWaterMark: 1 },
  );
  return new Response(body, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
  });
}

/** Events that are sent together once there is room again. */
const batchMax = 100;

function eventText(event: string, data: unknown): string {
  return `event: ${event}\ndata: ${printJson(data)}\n\n`;
}
