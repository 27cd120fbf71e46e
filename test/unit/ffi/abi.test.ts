/**
 * The ABI as C sees it. A program generated from the tables of `ffi/` prints the size and every
 * offset of each struct, the value of each constant and the text of each errno; what it prints
 * under glibc, under musl and on aarch64 (by qemu) is what the tables say.
 *
 * Nothing is listed twice: constants are the modules' exports, structs are the `{ size: … }`
 * tables found in the sources of `ffi/`, so a new one is covered as soon as it is written.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as errnos from "../../../ffi/errno.ts";
import { epollEventLayout, systemCallNumbers } from "../../../ffi/layout.ts";
import { testWith } from "../../helpers/tools.ts";

/** Userland's headers first: the kernel's then leave out what those have defined. */
const HEADERS = [
  "stddef.h stdio.h string.h errno.h fcntl.h sched.h time.h",
  "sys/types.h sys/socket.h sys/un.h sys/uio.h sys/time.h sys/resource.h sys/epoll.h sys/eventfd.h",
  "sys/syscall.h sys/ioctl.h",
  "netinet/in.h netinet/tcp.h netinet/udp.h netinet/ip.h netinet/ip6.h net/if.h",
  "netinet/ip_icmp.h netinet/icmp6.h",
  "linux/filter.h linux/netlink.h linux/rtnetlink.h linux/fib_rules.h linux/if_link.h",
  "linux/if_addr.h linux/veth.h linux/netfilter.h linux/netfilter_ipv4.h",
  "linux/netfilter_ipv6/ip6_tables.h",
  "linux/netfilter/nfnetlink.h linux/netfilter/nf_tables.h linux/sock_diag.h",
  "linux/netfilter/nf_tables_compat.h linux/netfilter/nf_conntrack_common.h",
  "linux/netfilter/nf_conntrack_tcp.h linux/netfilter/nfnetlink_conntrack.h",
  "linux/netfilter/nf_nat.h",
  "linux/netfilter_ipv4/ip_tables.h linux/netfilter/xt_addrtype.h linux/netfilter/xt_connlimit.h",
  "linux/netfilter/xt_connmark.h linux/netfilter/xt_conntrack.h linux/netfilter/xt_CT.h",
  "linux/netfilter/xt_hashlimit.h linux/netfilter/xt_owner.h linux/netfilter/xt_physdev.h",
  "linux/netfilter/xt_policy.h linux/netfilter/xt_rpfilter.h linux/netfilter/xt_socket.h",
  "linux/if_ether.h linux/if_arp.h linux/ipv6_route.h",
  "linux/inet_diag.h linux/capability.h linux/prctl.h linux/nsfs.h",
].flatMap((line) => line.split(" "));

/** Constants that the headers of a supported distribution may lack, with the reason. */
const NEWER: Readonly<Record<string, string>> = {
  IP_LOCAL_PORT_RANGE: "since Linux 6.3",
  NFT_BITWISE_AND: "since Linux 6.13",
  NFT_BITWISE_MASK_XOR: "named NFT_BITWISE_BOOL before Linux 6.13",
  NFT_BITWISE_OR: "since Linux 6.13",
  NFT_BITWISE_XOR: "since Linux 6.13",
  NFTA_BITWISE_SREG2: "since Linux 6.13",
  NFT_TABLE_F_PERSIST: "since Linux 6.9",
  SO_BUF_LOCK: "since Linux 5.15",
  SO_NETNS_COOKIE: "since Linux 5.14",
};

/** Constants that no header has, with their source. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  CTA_FILTER_F_CTA_IP_DST: "of the kernel alone (net/netfilter/nf_internals.h)",
  CTA_FILTER_F_CTA_IP_SRC: "the same",
  CTA_FILTER_F_CTA_PROTO_DST_PORT: "the same",
  CTA_FILTER_F_CTA_PROTO_NUM: "the same",
  CTA_FILTER_F_CTA_PROTO_SRC_PORT: "the same",
  TYPE_FIB_ADDR: "nft's own number of a set's key type (nftables, include/datatype.h)",
  TYPE_IFNAME: "the same",
  TYPE_INET_SERVICE: "the same",
  TYPE_INTEGER: "the same",
  TYPE_IP6ADDR: "the same",
  TYPE_IPADDR: "the same",
};

/** Table members that are no field of their own, as C spells them. */
const EXPRESSIONS: Readonly<Record<string, string>> = {
  "xt_entry_match.match_size": "offsetof(struct xt_entry_match, u.match_size)",
  "xt_entry_match.name": "offsetof(struct xt_entry_match, u.user.name)",
  "xt_entry_match.revision": "offsetof(struct xt_entry_match, u.user.revision)",
  "cmsghdr.align": "CMSG_ALIGN(1)",
  // Members of the struct inet_diag_sockid inside.
  ...Object.fromEntries(
    ["sport", "dport", "src", "dst", "if", "cookie"].map((field) => [
      `inet_diag_msg.idiag_${field}`,
      `offsetof(struct inet_diag_msg, id.idiag_${field})`,
    ]),
  ),
};

const ffi = join(import.meta.dir, "../../../ffi");

type Table = Readonly<Record<string, number>>;

/** Every `const name = { size: … } as const` of ffi/, exported or not. */
async function structTables(): Promise<Map<string, Table>> {
  const tables = new Map<string, Table>();
  for await (const file of new Bun.Glob("**/*.ts").scan({ cwd: ffi })) {
    const source = await Bun.file(join(ffi, file)).text();
    for (const [, name, literal] of source.matchAll(
      /const (\w+) = (\{\s*size:[^}]*\}) as const/g,
    )) {
      tables.set(name as string, Bun.JSON5.parse(literal as string) as Table);
    }
  }
  return tables;
}

/** The numbers that the modules of ffi/ export under names in capitals. */
async function exportedNumbers(): Promise<Map<string, number>> {
  const numbers = new Map<string, number>();
  for await (const file of new Bun.Glob("**/*.ts").scan({ cwd: ffi })) {
    for (const [name, value] of Object.entries(await import(join(ffi, file)))) {
      if (typeof value !== "number" || !/^[A-Z]/.test(name)) continue;
      if (ELSEWHERE[name] === undefined) numbers.set(name, value);
    }
  }
  return numbers;
}

const expectedConstants = await exportedNumbers();
const knownErrnos = Array.from({ length: 4095 }, (_, index) => index + 1).filter((errno) =>
  /^E/.test(errnos.errnoName(errno)),
);

/** What the C program must print: a line a fact, in the order of `program`. */
function expectedLines(arch: string, structs: Map<string, Table>): string[] {
  const tables = new Map([...structs, ["epoll_event", { ...epollEventLayout(arch) } as Table]]);
  return [
    ...[...tables].flatMap(([name, table]) =>
      Object.entries(table).map(([member, value]) => `${name}.${member} ${value}`),
    ),
    ...Object.entries(systemCallNumbers(arch)).map(([name, value]) => `${name} ${value}`),
    ...[...expectedConstants].map(([name, value]) => `${name} ${value}`),
    ...knownErrnos.map((errno) => `${errnos.errnoName(errno)} ${errno}`),
    ...knownErrnos.map((errno) => `${errno}: ${errnos.errnoText(errno)}`),
  ];
}

function program(lines: readonly string[]): string {
  const statements = lines.map((line) => {
    const subject = line.slice(0, line.lastIndexOf(" "));
    const [name = "", member] = subject.split(".");
    const errno = /^(\d+):/.exec(line)?.[1];
    if (errno !== undefined) return `printf("${errno}: %s\\n", strerror(${errno}));`;
    if (member !== undefined) {
      const field =
        member === "size" ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${member})`;
      return print(subject, EXPRESSIONS[subject] ?? field);
    }
    return print(name, name);
  });
  const includes = HEADERS.map((header) => `#include <${header}>`);
  return [
    "#define _GNU_SOURCE",
    ...includes,
    "int main(void) {",
    ...statements,
    "return 0; }",
    "",
  ].join("\n");
}

const print = (name: string, value: string) => `printf("${name} %lld\\n", (long long)(${value}));`;

async function run(command: string[]): Promise<string> {
  const env = { ...process.env, LC_ALL: "C" };
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env });
  const [out, problems] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) throw new Error(`${command[0]}: ${problems.slice(0, 4000)}`);
  return out;
}

/** Compiles the program for `lines`; answers those that these headers could compile. */
async function compile(command: string[], source: string, lines: string[]): Promise<string[]> {
  try {
    await Bun.write(source, program(lines));
    await run([...command, source]);
    return lines;
  } catch (error) {
    const unknown = [...String(error).matchAll(/'(\w+)' undeclared/g)].map((match) => match[1]);
    const rest = lines.filter((line) => !unknown.includes(line.split(" ")[0]));
    if (unknown.length === 0 || unknown.some((name) => NEWER[`${name}`] === undefined)) throw error;
    return compile(command, source, rest);
  }
}

interface Platform {
  readonly title: string;
  readonly arch: string;
  readonly compile: readonly string[];
  readonly run: readonly string[];
  /** musl words its errors in its own way. */
  readonly sameTexts: boolean;
}

const MULTIARCH = `/usr/include/${process.arch === "x64" ? "x86_64" : "aarch64"}-linux-gnu`;
const platforms: Platform[] = [
  { title: "glibc", arch: process.arch, compile: ["gcc"], run: [], sameTexts: true },
  {
    title: "musl",
    arch: process.arch,
    // musl brings no kernel headers: the distribution's, behind its own.
    compile: ["musl-gcc", "-idirafter", "/usr/include", "-idirafter", MULTIARCH],
    run: [],
    sameTexts: false,
  },
  {
    title: "glibc on aarch64",
    arch: "arm64",
    compile: ["aarch64-linux-gnu-gcc"],
    run: ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"],
    sameTexts: true,
  },
];

describe("the tables of ffi/ agree with C:", () => {
  let folder = "";
  let structs = new Map<string, Table>();
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tproxy-abi-"));
    structs = await structTables();
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("all tables were found", () => {
    expect([...structs.keys()]).toContain("sockaddr_in6");
    expect([...structs.keys()]).toContain("nlmsghdr");
    expect(expectedConstants.size).toBeGreaterThan(100);
    expect(knownErrnos.length).toBeGreaterThan(40);
  });

  for (const platform of platforms) {
    const tools = [platform.compile[0], platform.run[0]].filter((tool) => tool !== undefined);
    testWith(tools)(`${platform.title} (${tools.join(", ")})`, async () => {
      const source = join(folder, `${platform.title.replaceAll(" ", "-")}.c`);
      const binary = `${source}.out`;
      const command = [...platform.compile, "-w", "-o", binary];
      const lines = await compile(command, source, expectedLines(platform.arch, structs));
      const printed = (await run([...platform.run, binary])).trimEnd().split("\n");
      const isText = (line: string) => /^\d+:/.test(line);
      const compared = (all: string[]) =>
        platform.sameTexts ? all : all.filter((line) => !isText(line));
      expect(compared(printed)).toEqual(compared(lines));
    });
  }
});
