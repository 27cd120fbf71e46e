/** Every bound of the engine, in one place. Nothing on the data path grows past these. */

/** Events taken from the kernel in one turn. Those that are left come first in the next one. */
export const eventsPerWait = 128;

/**
 * A Worker collects garbage after `quietMs` without events, once this many descriptors were closed
 * since the last collection: those of 2,048 connections, or of 2,048 to 4,096 sessions, which leave
 * 4 to 8 MB of objects. A collection takes 10 to 30 ms, in which the Worker forwards nothing.
 */
export const quietMs = 500;
export const closedUntilQuiet = 4096;

/** Connections accepted from one listener before others get their turn. */
export const acceptsPerTurn = 64;

/** The part of the last turn's time for which listeners accept in a turn; its bounds in ms. */
export const acceptShare = 0.25;
export const acceptMsLeast = 0.25;
export const acceptMsMost = 2;

/** Reads from one connection, and datagrams from one socket, before others get their turn. */
export const readsPerTurn = 8;
export const datagramsPerTurn = 64;

/** The buffer that all connections of a Worker share for reading. */
export const receiveBytes = 64 * 1024;

/** The largest datagram that UDP can carry. */
export const datagramBytesMax = 65_535;

/** The backlog of `listen(2)`; the kernel lowers it to net.core.somaxconn. */
export const backlog = 4096;

/** How long accepting pauses after EMFILE, ENFILE, ENOBUFS or ENOMEM. */
export const acceptPauseMs = 100;

/** How long, and for how many bytes, a peer is read between the answer and the close. */
export const lingerMs = 2_000;
export const lingerBytes = 16 * 1024 * 1024;

/** A connection that neither sends nor takes anything for this long is closed. */
export const idleTimeoutMs = 60_000;

/** How long one `connect` may take. */
export const connectTimeoutMs = 10_000;

/** After its input has ended, how long `bind --to` over UDP waits for another reply. */
export const replyTimeoutMs = 1_000;

/**
 * Batches of events that may wait for the main thread to print them. Beyond that the Worker waits,
 * or drops log lines, until few batches wait.
 */
export const outstandingBatches = 64;
export const outstandingBatchesAgain = 32;

/** The interval in which a Worker that drops lines checks whether they are read again. */
export const lostLinesPauseMs = 250;

/** Events in one batch. */
export const eventsPerBatch = 256;

/** Bytes of payload in the events of one batch; a batch with more is full. */
export const eventBytesPerBatch = 1024 * 1024;

/** How long events wait for more behind a batch that has just left. */
export const batchIntervalMs = 30;

/** How long Workers get to end by themselves after being told to stop. */
export const stopGraceMs = 2_000;

/** How long the reader of standard output may take for the rest after a signal to stop. */
export const flushMaxMs = 1_000;

/** Bytes of the log that a slow reader has not taken: above this Workers keep their lines. */
export const logBytesMax = 4 * 1024 * 1024;

/** Descriptors kept free for the process itself when connections are planned. */
export const reservedDescriptors = 64;

/** A list of networks (`@FILE`) larger than this is refused. */
export const networkListBytesMax = 16 * 1024 * 1024;

/** A `--reply-file` larger than this is refused. */
export const replyBytesMax = 64 * 1024 * 1024;

/** Connections at once in one process, whatever the limit on descriptors. */
export const connectionsMax = 1_000_000;

/** The most that one UDP datagram over IPv4 carries: 65,535 less 20 of IP and 8 of UDP. */
export const datagramPayloadMax = 65_507;

/** The packet size that every path of IPv6 carries (RFC 8200, 5). */
export const ipv6MtuMin = 1280;

/** Connections that `bind` without `--to` shows at once. */
export const heldConnectionsMax = 10_000;

/**
 * The size asked for the pipes that a relay splices through: what an ordinary user may have
 * (fs.pipe-max-size). It is room for pieces; memory is taken for those that are there.
 */
export const pipeBytes = 1024 * 1024;

/**
 * The most that one splice(2) moves: a pipe has room for a number of pieces, whatever their size,
 * and those of a socket's queue are larger than a page.
 */
export const spliceBytesMax = 1024 * 1024;

/** Bytes that all streams of a Worker together move in one turn of the loop, about 1 ms. */
export const streamBytesPerTurn = 2 * 1024 * 1024;

/**
 * TCP's memory is short above this part of the memory without regulation (the first value of
 * tcp_mem), which is read at most this often.
 */
export const tcpMemoryShare = 0.5;
export const tcpMemoryIntervalMs = 1_000;

/** Stalled connections end above this part. */
export const stalledEndShare = 0.75;

/** A connection has stalled if its reader has taken nothing of the queued bytes for this long. */
export const stalledMs = 5_000;

/** How many connections with queued bytes are watched, and how many may end in an interval. */
export const stalledWatchedMax = 4_096;
export const stalledEndedMax = 256;

/** Connections that hold fewer bytes do not end: that would free too little. */
export const stalledBytesMin = 16 * 1024;

/** If stalled connections hold less than this part of the excess, none ends: others cause it. */
export const stalledPartMin = 0.25;

/**
 * The receive buffers of so many streams may grow that all of them take at most this part of that
 * memory, and those of one client the second part.
 */
export const wideStreamsMin = 4;
export const wideStreamsMax = 1_024;
export const wideStreamsShare = 0.25;
export const wideOfClientMax = 64;
export const wideOfClientShare = 0.125;

/** A stream may get such a buffer after this many bytes; it asks again after a multiple of them. */
export const wideEarnedBytes = 512 * 1024;
export const wideAgainTimes = 32;

/**
 * The sizes of receive buffers, which the kernel doubles for its own overhead: of a new socket
 * while memory is short; of a stream that begins, the kernel's default, so that what has been
 * offered has room; of one that has carried much; and from where on one grows by itself
 * (net.core.rmem_max as it is by default).
 */
export const scarceReceiveBytes = 32 * 1024;
export const streamReceiveBytes = 64 * 1024;
export const earnedReceiveBytes = 128 * 1024;
export const growingReceiveBytes = 208 * 1024;

/**
 * The most unsent bytes in a send buffer (TCP_NOTSENT_LOWAT), and the most while memory is short.
 */
export const unsentBytesMax = 256 * 1024;
export const unsentBytesMin = 64 * 1024;

/** Pipes that one Worker may have, two descriptors each; beyond them bytes are copied. */
export const pipesMax = 1024;

/** A forwarded connection that carries nothing for this long is closed. */
export const forwardIdleTimeoutMs = 600_000;

/** A half-closed connection that carries nothing for this long is closed. */
export const halfClosedTimeoutMs = 60_000;

/** How long the header of the PROXY protocol may take. */
export const headerTimeoutMs = 5_000;

/** The most bytes of a PROXY header that are read. */
export const headerBytesMax = 4_096;

/** The most bytes of TLVs of such a header that are passed on with a datagram. */
export const datagramTlvBytesMax = 512;

/** How long a reload waits for the Workers before it warns of those that are late. */
export const reloadWaitMs = 5_000;

/** How long a listener that a reload has removed goes on accepting: handshakes are on their way. */
export const removedListenerMs = 100;

/** How long open connections may go on after SIGTERM. */
export const drainTimeoutMs = 30_000;

/** Keep-alive probes without an answer after which a peer is dead, in the time of --keepalive. */
export const keepAliveProbes = 3;

/** The most that TCP_KEEPIDLE takes: 32,767 s (include/net/tcp.h, MAX_TCP_KEEPIDLE). */
export const keepAliveMsMax = 32_767_000;

/** How long a listener with `client-first` waits for a client's first bytes (TCP_DEFER_ACCEPT). */
export const clientFirstSeconds = 3;

/** A connection is tried at this many upstreams, the first included. */
export const connectAttemptsMax = 3;

/** Local ports among which the kernel looks for a free one, and how many such windows are tried. */
export const portWindow = 64;
export const portWindowsTried = 4;

/** A range of fewer ports is not divided into windows. */
export const portWindowsWorthwhile = 1024;

/** The most of the time that walks through the whole range of ports may take. */
export const portWalkShare = 0.1;

/** How many ports in TIME_WAIT a connection tries when no port is free. */
export const portReusesTried = 4;

/**
 * Connections that may wait for a place, of which a small part of all is kept: this part, but at
 * least and at most so many.
 */
export const queueShare = 0.125;
export const queueMin = 64;
export const queueMax = 512;

/** How many of a client's oldest connections are compared to find the idlest one to evict. */
export const idlestOf = 64;

/**
 * Above this part of the places, idle connections and sessions of the client with the most end
 * after this part of their time-out. They are looked for in this interval, at most so many at once.
 */
export const nearlyFull = 0.875;
export const sweepIntervalMs = 1_000;
export const sweptAtOnce = 256;
export const sweptIdlePart = 0.125;

/**
 * With this many UDP sessions on probation, the next session evicts one of them: so many of the
 * heaviest client, or this part of all places if that is less; of all clients this part.
 */
export const newcomersKept = 64;
export const newcomersKeptShare = 0.125;

/** Upstreams of one pool, the addresses of names included. */
export const upstreamsMax = 256;

/** Addresses of all pools together: each has a slot of the board. */
export const upstreamSlotsMax = 16_384;

/** The shortest interval of checks. */
export const checkIntervalMsMin = 100;

/** While the state of an upstream is changing, checks come so many times as often. */
export const hastyChecks = 4;

/** The bytes that a check sends and receives at once. */
export const probeBytes = 4_096;

/** The part of its share that an upstream has when its slow start begins. */
export const slowStartLeast = 0.05;

/**
 * When a name is looked up again: after its time to live, within bounds; and if that is unknown.
 */
export const nameRefreshMsMin = 1_000;
export const nameRefreshMsMax = 3_600_000;
export const nameRefreshMs = 60_000;

/** How long the start waits for other names once one upstream is known. */
export const nameStartMs = 2_000;

/** The longest time until a name that was not found is looked up again. */
export const nameRetryMs = 10_000;

/** Failures in a row after which an upstream backs off. The back-off doubles up to its maximum. */
export const upstreamFailuresMax = 3;
export const upstreamBackOffMs = 10_000;
export const upstreamBackOffMsMax = 300_000;

/** Clients for which an upstream that may work for others backs off. */
export const clientBackOffsMax = 1_024;

/** A UDP session without an answer for this long shows that its upstream is silent. */
export const silenceMs = 3_000;

/** A UDP upstream is reported after this many sessions without one answer; upstreams watched. */
export const silentSessionsMax = 3;
export const silentUpstreamsMax = 256;

/** Services at once. Each has a block of counters in the memory that a Worker shares. */
export const servicesMax = 1_024;

/** Descriptors in a Worker's map of open ones: more than `connectionsMax` allows. */
export const descriptorsMax = 1 << 20;

/** This many Workers may die within this time and are replaced; one more ends the process. */
export const workerDeathsMax = 5;
export const workerDeathsWindowMs = 10_000;

/** How often it is looked whether all Workers have passed a turn, while something waits for it. */
export const turnPollMs = 2;

/** For a time-out: none. Added to any time it is still a whole number. */
export const neverMs = 2 ** 52;

/** Workers of one process. */
export const workersMax = 64;

/**
 * The table of connections: rows in one turn of the loop, and batches that wait for the printer.
 */
export const tableRowsPerTurn = 256;

export const tableBatches = 4;
export const tablePauseMs = 20;

/** Datagrams that are received with one system call, and batches before others get their turn. */
export const batchDatagrams = 64;
export const batchesPerTurn = 4;

/** Datagrams of a new socket that are searched at once for those of other clients. */
export const strayDatagrams = 16;

/** Bytes that may be queued at a UDP listener, each way, as the kernel counts them. */
export const listenerBufferBytes = 8 * 1024 * 1024;

/** Batches that empty a full listener's queue: the kernel counts at least 768 bytes a datagram. */
export const drainedBatchesMax = Math.ceil((2 * listenerBufferBytes) / 768 / batchDatagrams);

/** The same for a socket of a session that has much traffic. */
export const flowBufferBytes = 1024 * 1024;

/**
 * When a UDP listener's queue is fuller than this, only so many datagrams of a batch may begin
 * sessions: beginning one costs as much as forwarding some thirty.
 */
export const newcomersByFill: readonly (readonly [fill: number, newcomers: number])[] = [
  [0.4, 1],
  [0.15, 4],
  [0.05, 16],
];

/**
 * An answer may always have this many bytes: the smallest Ethernet frame carries them (46 less 20
 * of IPv4 and 8 of UDP).
 */
export const answerBytesFree = 18;

/** The default bound on answers of `listen --udp` to one client in a second. */
export const answersPerSecond = 5_000;

/** The kernel's default limits on ICMP errors, for a kernel that does not show them. */
export const icmpLimits = { perSecond: 1_000, burst: 50, perPeerMs: 1_000 } as const;

/** Sockets of their own that sessions to one destination may have: each costs every look-up. */
export const ownReplySocketsMax = 64;

/** Sockets that may share a port by SO_REUSEPORT: bind(2) walks all of them. */
export const joinedSocketsMax = 512;

/** Attempts to join a socket that another Worker is opening. */
export const joinAttemptsMax = 3;

/** A session with this many datagrams, both ways together, within this time is busy. */
export const busyDatagrams = 32;
export const busyWithinMs = 100;

/** A UDP session ends after this long without a datagram. */
export const sessionIdleTimeoutMs = 60_000;

/** A session with a DNS server ends after this long, once it has been answered. */
export const dnsIdleTimeoutMs = 5_000;

/** The interval in which warnings of one kind are counted together; the most kinds at once. */
export const warningIntervalMs = 10_000;
export const warningKindsMax = 100;

/** Failed connections, or sessions, of one kind that get lines of their own within that time. */
export const failureLinesMax = 10;

/** Entries in the table of flows towards upstreams: a power of two. */
export const ownFlowsMax = 32_768;

/** Traffic that has returned this many times is a loop; all bits of the field are set. */
export const loopRoundsMax = 31;

/** Bounds of a configuration: bytes of one file, and files, included ones among them. */
export const configurationBytesMax = 1024 * 1024;
export const configurationFilesMax = 1_000;
