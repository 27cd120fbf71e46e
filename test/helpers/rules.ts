/** Shell functions for scripts about rules in the running system, in a namespace of their own. */

import { tproxy } from "./tproxy.ts";

/** The command line of the program under test, for a shell. */
export const program = tproxy.map((word) => `'${word}'`).join(" ");

/**
 * `routes …`: the program under test; `dump FILE`: all that it could change; `same A B WHAT`: says
 * whether two dumps are alike; `capturing`: says which of its tables are there;
 * `eventually WORDS…`: waits until a command succeeds; `hold ARGUMENTS…`: starts a process that
 * stays, whose output is in the file `held` and whose process id in $holder, and waits until it
 * says that it stays.
 */
export const ruleFunctions = `
routes() { ${program} routes "$@"; }
dump() {
  {
    ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
    nft list ruleset; iptables-save; ip6tables-save
  } 2>/dev/null | grep -v '^#' > "$1"
}
same() { cmp -s "$1" "$2" && echo "$3: same" || { echo "$3: different"; diff "$1" "$2" || :; }; }
capturing() { nft list tables | grep tproxyd || echo "nothing of ours"; }
eventually() {
  tries=0
  until "$@" > /dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" = 1500 ]; then echo "never: $*"; return 1; fi
    sleep 0.01
  done
}
hold() {
  : > held
  ${program} routes --apply "$@" > held 2>&1 &
  holder=$!
  started="$started $holder"
  eventually grep -E '^(held|in force)|^tproxy:' held
}
`;

/** Enough for a set with a name. */
const many = Array.from({ length: 70 }, (_, i) => `20.0.${2 * i}.0/24,2001:db8:${2 * i}::/48`);

/** What can be captured and how, as the options of `routes`: each in a way of its own. */
export const captures: Readonly<Record<string, string>> = {
  "one port": "--dport 80",
  "TPROXY to a port": "--dport 80 --to-port 50080",
  "TPROXY to an address": "--dport 80 --to-port 50080 --to-address 127.0.0.1,::1",
  IPv4: "--family 4 --dport 80 --to-port 50080",
  IPv6: "--family 6 --dport 80 --to-port 50080",
  "tcp and udp": "--proto tcp,udp --dport 53,80-90,443",
  "destinations and sources":
    "--dst 8.8.8.8,10.0.0.0/8,2001:db8::/33 --src 192.0.2.0/25,fd00::/8 --to-port 50080",
  "many destinations": `--dst ${many} --to-port 50080`,
  interfaces: "--in eth0,wlan0.100 --dport 80",
  "a bypass": "--dport 80 --bypass 192.0.2.0/24,2001:db8::/32 --bypass-private",
  "local programs, guarded": "--local --guard-uid 65534 --guard-gid 65534 --to-port 50080",
  "local programs, guarded by mark": "--local --guard-mark 0x10/0x10 --dport 443",
  "the reply path": "--dport 80 --to-port 50080 --reply-path",
  redirect: "--dport 80 --to-port 50080 --redirect",
  "another mark, table, priority": "--dport 80 --mark 0x40/0xf0 --table 4000 --priority 77",
  "a whole mark": "--dport 80 --mark 7",
  "another table name": "--dport 80 --table-name tproxyd_two",
};
