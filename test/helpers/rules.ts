/** Shell functions for scripts about rules in the running system, in a namespace of their own. */

import { tproxy } from "./tproxy.ts";

/** The command line of the program under test, for a shell. */
const program = tproxy.map((word) => `'${word}'`).join(" ");

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
