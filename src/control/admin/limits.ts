/** The bounds of the admin API and its clients. Numbers alone. */

/** The admin socket, and the one for reading, each: connections, and requests in a second. */
export const adminConnectionsMax = 64;
export const adminRequestsPerSecond = 200;

/** Streams (Server-Sent Events) among those connections. */
export const adminStreamsMax = 32;

/** The head of a request, in bytes, and how long a client may take for the request, in ms. */
export const adminHeadBytesMax = 16 * 1024;
export const adminRequestMs = 10_000;

/** A client that takes nothing of its answer for so long, in ms, is disconnected. */
export const adminStalledMs = 30_000;

/** Without anything else a stream gets a comment so often, in ms, so that its end is noticed. */
export const adminCommentMs = 5_000;

/** Between the two samples of `tproxy status`, and the looks of `drain --wait`, in ms. */
export const statusPauseMs = 500;
export const drainPollMs = 500;

/** How long a command looks for the admin socket, and how often, in ms. */
export const adminConnectMs = 1_000;
export const adminConnectPauseMs = 50;

/** Events that a slow reader of a stream may be behind. */
export const streamEventsMax = 1_000;
