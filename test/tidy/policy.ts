/** The architecture as data: the layers, the pure modules, the exceptions with their reasons. */

export interface Layer {
  readonly name: string;
  readonly rank: number;
}

/**
 * The first prefix that fits names the layer. A file may import from its own layer and from lower
 * ranks; layers of the same rank do not know each other.
 */
const LAYERS: readonly [prefix: string, rank: number][] = [
  ["ffi/", 0],
  ["src/errors.ts", 0],
  ["src/internal-error.ts", 0],
  ["src/version.ts", 0],
  // Numbers alone, which settings are checked against before there is an engine.
  ["src/engine/limits.ts", 0],
  ["src/net/", 1],
  ["src/capture/plan/", 2],
  ["src/proto/", 2],
  ["src/capture/kernel-path/", 3],
  ["src/capture/render/", 3],
  ["src/config/", 3],
  ["src/engine/", 4],
  ["src/workers/", 5],
  ["src/fairness/", 6],
  ["src/log/", 6],
  ["src/capture/live/", 7],
  // Both protocols of a service.
  ["src/forward/services.ts", 9],
  ["src/forward/tcp/", 8],
  ["src/forward/udp/", 8],
  ["src/forward/", 7],
  ["src/listen/", 8],
  ["src/health/", 8],
  ["src/connect/", 8],
  ["src/worker.ts", 9.5],
  ["src/diagnose/", 10],
  ["src/control/", 11],
  ["src/demo/", 12],
  ["src/cli/", 13],
  ["src/main.ts", 14],
  ["build/", 15],
];

/** The layer of a file of ffi/, src/ or build/; undefined for one that nobody has placed. */
export function layerOf(path: string): Layer | undefined {
  const found = LAYERS.find(([prefix]) => path.startsWith(prefix));
  return found === undefined ? undefined : { name: found[0].replace(/\/$/, ""), rank: found[1] };
}

/** The part of ffi/ that touches the kernel or native memory; the rest are codecs and tables. */
const IMPURE_FFI = [
  "ffi/credentials.ts",
  "ffi/epoll.ts",
  "ffi/libc.ts",
  "ffi/memory.ts",
  "ffi/netlink/monitor.ts",
  "ffi/netlink/socket.ts",
  "ffi/netns.ts",
  "ffi/receive-batch.ts",
  "ffi/refused-calls.ts",
  "ffi/send-batch.ts",
  "ffi/sys.ts",
  "ffi/unix-socket.ts",
  "ffi/xtables.ts",
];

/** The part of build/ that reads, downloads or writes files; the rest is from bytes to bytes. */
const IMPURE_BUILD = ["build/compile.ts", "build/inputs.ts", "build/package/"];

const PURE = [
  ...["build/", "ffi/", "src/net/", "src/capture/plan/", "src/capture/render/", "src/proto/"],
  "src/capture/kernel-path/",
  ...["src/config/", "src/engine/limits.ts"],
];

/** Whether a module must be free of descriptors, clocks and the process. */
export function isPure(path: string): boolean {
  const impure =
    IMPURE_FFI.includes(path) || IMPURE_BUILD.some((prefix) => path.startsWith(prefix));
  return PURE.some((prefix) => path.startsWith(prefix)) && !impure;
}

/** Globals that would make a module depend on when, where or in which process it runs. */
export const PURE_GLOBALS = [
  "Atomics",
  "Bun",
  "Date",
  "Worker",
  "fetch",
  "performance",
  "process",
  "setInterval",
  "setTimeout",
];

/** `file#export` that only tests import, each with the reason why it is exported all the same. */
export const TEST_ONLY_EXPORTS: Readonly<Record<string, string>> = {
  "build/compile.ts#isolation": "shows what an executable that is built without it hears",
  "ffi/memory.ts#allocated": "shows that a running engine allocates no more buffers",
  "ffi/unix-socket.ts#encodeSockaddrUn": "binds the manager that tests talk to",
  "ffi/sys.ts#getppid": "the cheapest system call there is, for the micro-benchmark",
};

/** Of the engine, the files that run nothing: numbers. */
export const ENGINE_VALUES = ["src/engine/limits.ts", "src/engine/random.ts"];

/** The folders that may name the flags of this program: what the command line alone prints. */
export const FLAGS_ALLOWED = ["src/cli/", "src/main.ts"];

/** Make command lines of other programs, iptables and curl, whose words look like our flags. */
export const FOREIGN_COMMANDS = ["src/capture/render/", "src/demo/"];

/** Codecs: the half that only tests use is what shows that the other half is right. */
export const CODECS = "ffi/netlink/";

/** Tables of the kernel's names: kept as their headers have them, whatever is in use today. */
export const TABLES = [
  "ffi/constants.ts",
  "ffi/errno.ts",
  "ffi/layout.ts",
  "ffi/netlink/conntrack-constants.ts",
  "ffi/netlink/constants.ts",
  "ffi/xtables-constants.ts",
];

/** And folders of codecs, where only the kernel's names, in capitals, are such a table. */
export const KERNEL_NAMES = "ffi/netlink/nftables/expr/";

/** Names of netlink's and netfilter's headers: ffi/ alone gives them values. */
const NETLINK_PREFIXES = [
  ...[
    "NFTA?",
    "NF",
    "NFPROTO",
    "CTA",
    "IPCTNL",
    "TCP_CONNTRACK",
    "IPS",
    "IP_CT",
    "IPT",
    "IP6T",
    "XT",
  ],
  ...["IFLA", "IFA", "FRA", "FR_ACT", "NLMSG?", "RT[AMN]?", "RTPROT"],
].join("|");
export const NETLINK_NAME = new RegExp(`\\bconst ((${NETLINK_PREFIXES})_[A-Z0-9_]+) =`);

/** Files whose lines may be long, with the reason. */
export const LONG_LINES: Readonly<Record<string, string>> = {
  "ffi/libc.ts": "the symbol table has each function's C prototype behind its entry",
};

/**
 * Words that only the old wording of comments, messages and documents had: a reader whose first
 * language is not English has to read them twice. Behind each, what to write instead. They are
 * looked for in folders of code and in documents, as whole words, upper case or lower case.
 */
export const OLD_WORDING: Readonly<Record<string, string>> = {
  "for want of": "for lack of",
  "half as many again": "a factor, 1.5×",
  "hit upon": "name the actor and what it does",
  "in the place of": "instead of",
  "in vain": "say what does not happen",
  "let go of": "give up, close",
  "lets go of": "gives up, closes",
  "of account": "matters",
  "of late": "a time",
  "of no use": "say what fails",
  "of theirs": "their",
  "out of the question": "say why it cannot be",
  "put up with": "accept, or a limit",
  "stand in for": "replace",
  "stands in for": "replaces",
  "take it for": "mistake it for",
  "takes it for": "mistakes it for",
  "what becomes of": "name what happens",
  "what there is to say": "the text about",
  "who is told": "the callback for",
  whoever: "name the actor",
};

/** The files in which those words are looked for. */
export const PROSE =
  /^((src|ffi|build)\/.*\.ts|docs\/.*\.md|(README|ARCHITECTURE|CONTRIBUTING)\.md)$/;
