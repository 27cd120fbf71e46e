/** Commands of conntrack(8), each with the messages that tproxy makes for the same. */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import {
  deleteEntry,
  dumpEntries,
  type EntryKey,
  getEntry,
  updateEntry,
} from "../../../ffi/netlink/conntrack.ts";
import { CTA_MARK, CTA_TIMEOUT, CTA_TUPLE_ORIG } from "../../../ffi/netlink/conntrack-constants.ts";
import { dumpCounts, getFill } from "../../../ffi/netlink/conntrack-stats.ts";
import { NFPROTO_IPV6 } from "../../../ffi/netlink/constants.ts";
import { nfnetlinkAttributes } from "../../../ffi/netlink/nfnetlink.ts";
import { IPS_ASSURED } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { ip } from "../../helpers/addresses.ts";
import type { Case } from "./case.ts";

const stream: EntryKey = {
  original: {
    source: ip("192.0.2.1"),
    destination: ip("198.51.100.7"),
    protocol: IPPROTO_TCP,
    sourcePort: 4000,
    destinationPort: 80,
  },
};
const session: EntryKey = {
  original: {
    source: ip("2001:db8::1"),
    destination: ip("2001:db8::2"),
    protocol: IPPROTO_UDP,
    sourcePort: 4000,
    destinationPort: 53,
  },
};
const tcp = "-p tcp -s 192.0.2.1 -d 198.51.100.7 --sport 4000 --dport 80";
const udp = "-p udp -s 2001:db8::1 -d 2001:db8::2 --sport 4000 --dport 53";
const withStream = `conntrack -I ${tcp} --state ESTABLISHED -t 100 >/dev/null 2>&1`;
const withSession = `conntrack -I ${udp} -t 100 >/dev/null 2>&1`;

/** The tool writes the other tuple as well, which it has to make up or has just been given. */
const sameAs = {
  because: "the kernel looks at one tuple alone",
  decode(body: Uint8Array) {
    const { family, attributes } = nfnetlinkAttributes(body);
    const original = attributes.bytes(CTA_TUPLE_ORIG)?.toHex();
    return { family, original };
  },
};
const sameChange = {
  because: sameAs.because,
  decode(body: Uint8Array) {
    const { attributes } = nfnetlinkAttributes(body);
    const changes = { timeoutS: attributes.be32(CTA_TIMEOUT), mark: attributes.be32(CTA_MARK) };
    return { ...sameAs.decode(body), ...changes };
  },
};

export const conntrackCases: readonly Case[] = [
  { command: "conntrack -L", messages: [dumpEntries({}, "whole")] },
  { command: "conntrack -L -f ipv6", messages: [dumpEntries({ family: NFPROTO_IPV6 }, "whole")] },
  {
    command: "conntrack -L -m 7/0xff",
    messages: [dumpEntries({ mark: { value: 7, mask: 0xff } }, "mark")],
  },
  {
    command: "conntrack -L --status ASSURED",
    messages: [dumpEntries({ status: { value: IPS_ASSURED, mask: IPS_ASSURED } }, "whole")],
  },
  { command: `conntrack -G ${tcp}`, setup: withStream, messages: [getEntry(stream)], sameAs },
  { command: `conntrack -D ${udp}`, setup: withSession, messages: [deleteEntry(session)], sameAs },
  {
    command: `conntrack -U ${tcp} -t 50`,
    setup: withStream,
    messages: [updateEntry(stream, { timeoutS: 50 })],
    sameAs: sameChange,
  },
  {
    command: `conntrack -U ${tcp} -m 9`,
    setup: withStream,
    messages: [updateEntry(stream, { mark: 9 })],
    sameAs: sameChange,
  },
  { command: "conntrack -C", messages: [getFill()] },
  { command: "conntrack -S", messages: [dumpCounts()] },
];
