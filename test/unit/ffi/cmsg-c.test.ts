/** Control messages beside those that a C program makes with the macros of cmsg(3). */

import { expect } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { encodePacketInfo, packetInfoBytesMax, ReceivedControls } from "../../../ffi/cmsg.ts";
import { decodeSockaddr } from "../../../ffi/sockaddr.ts";
import { testWith } from "../../helpers/tools.ts";

/**
 * Reads lines "ADDRESS PORT INTERFACE FILLER". Prints in hexadecimal the packet info of each, and
 * then what the kernel tells of a datagram to it, behind another message of FILLER bytes.
 */
const program = `
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#ifndef IPV6_ORIGDSTADDR
#define IPV6_ORIGDSTADDR 74
#endif

static union { char bytes[512]; struct cmsghdr header; } control;
static struct msghdr message;
static size_t length;

static void *add(int level, int type, size_t size) {
  struct cmsghdr *c;
  message.msg_control = control.bytes;
  message.msg_controllen = length + CMSG_SPACE(size);
  c = CMSG_FIRSTHDR(&message);
  if (length > 0) c = CMSG_NXTHDR(&message, c);
  c->cmsg_level = level;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(size);
  length += CMSG_SPACE(size);
  return CMSG_DATA(c);
}

static void print(void) {
  for (size_t i = 0; i < length; i++) printf("%02x", (unsigned char)control.bytes[i]);
  printf("\\n");
  memset(&control, 0, sizeof control);
  length = 0;
}

int main(void) {
  char text[64];
  unsigned port, interface, filler;
  while (scanf("%63s %u %u %u", text, &port, &interface, &filler) == 4) {
    struct in6_addr six;
    struct in_addr four;
    int isFour = inet_pton(AF_INET, text, &four) == 1;
    if (isFour) {
      struct in_pktinfo *info = add(IPPROTO_IP, IP_PKTINFO, sizeof *info);
      info->ipi_spec_dst = four;
    } else {
      struct in6_pktinfo *info = add(IPPROTO_IPV6, IPV6_PKTINFO, sizeof *info);
      inet_pton(AF_INET6, text, &six);
      info->ipi6_addr = six;
      info->ipi6_ifindex = interface;
    }
    print();
    memset(add(IPPROTO_IP, IP_TTL, filler), 0x5a, filler);
    if (isFour) {
      struct sockaddr_in *name = add(IPPROTO_IP, IP_ORIGDSTADDR, sizeof *name);
      name->sin_family = AF_INET;
      name->sin_port = htons(port);
      name->sin_addr = four;
    } else {
      struct sockaddr_in6 *name = add(IPPROTO_IPV6, IPV6_ORIGDSTADDR, sizeof *name);
      name->sin6_family = AF_INET6;
      name->sin6_port = htons(port);
      name->sin6_addr = six;
      name->sin6_scope_id = interface;
    }
    print();
  }
  return 0;
}
`;

async function linesOfC(input: string): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-cmsg-"));
  try {
    const [source, binary] = [join(folder, "cmsg.c"), join(folder, "cmsg")];
    await Bun.write(source, program);
    const compiled = Bun.spawnSync(["gcc", "-w", "-o", binary, source]);
    if (!compiled.success) throw new Error(compiled.stderr.toString());
    const done = Bun.spawnSync([binary], { stdin: new TextEncoder().encode(input) });
    return done.stdout.toString().trimEnd().split("\n");
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const bytesOf = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
// No IPv4-mapped one: that is told as the IPv4 address that it is.
const address = fc.oneof(
  bytesOf(4),
  bytesOf(16).map((bytes) => Uint8Array.from(bytes, (byte, i) => (i === 0 ? 0x20 : byte))),
);
const cases = fc.tuple(address, fc.nat(65_535), fc.nat(1000), fc.nat(40));

const text = (bytes: Uint8Array): string =>
  bytes.length === 4
    ? bytes.join(".")
    : Buffer.from(bytes)
        .toString("hex")
        .replace(/....(?!$)/g, "$&:");

testWith(["gcc"])("written and found as C's macros lay them out", async () => {
  const all = fc.sample(cases, 300);
  const input = all.map(([bytes, ...numbers]) => `${text(bytes)} ${numbers.join(" ")}\n`);
  const lines = await linesOfC(input.join(""));
  expect(lines).toHaveLength(2 * all.length);
  for (const [i, [bytes, port, scopeId, filler]] of all.entries()) {
    const view = new DataView(new ArrayBuffer(packetInfoBytesMax));
    const length = encodePacketInfo(view, bytes, scopeId);
    const written = Buffer.from(view.buffer, 0, length).toString("hex");
    expect(written).toBe(lines[2 * i] as string);
    const told = Buffer.from(lines[2 * i + 1] as string, "hex");
    const words = new Uint32Array(
      told.buffer.slice(told.byteOffset, told.byteOffset + told.length),
    );
    const found = new ReceivedControls(1);
    found.read(0, words, 0, told.length);
    const expected = { address: bytes, port, scopeId: bytes.length === 4 ? 0 : scopeId };
    const at = found.destinations[0] as number;
    expect(decodeSockaddr(new DataView(words.buffer), at * 4)).toEqual(expected);
    expect(found.hopLimits[0]).toBe(filler < 4 ? 0 : 0x5a5a5a5a);
    expect(found.segments[0]).toBe(0);
  }
});
