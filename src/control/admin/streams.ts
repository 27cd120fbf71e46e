/** How many streams of events a socket has at once. */

import { type EventSink, eventStream } from "./event-stream.ts";
import { adminStreamsMax } from "./limits.ts";
import { ApiError } from "./problem.ts";

export class Streams {
  private count = 0;

  /** Opens a stream (`eventStream`). @throws ApiError if there are too many */
  open(begin: (sink: EventSink) => () => void): Response {
    if (this.count >= adminStreamsMax) {
      throw new ApiError(503, `${adminStreamsMax} streams are open, as many as may be`);
    }
    this.count++;
    return eventStream((sink) => {
      const close = begin(sink);
      return () => {
        this.count--;
        close();
      };
    });
  }
}
