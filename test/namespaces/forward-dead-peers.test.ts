/** `forward --keepalive` and `--user-timeout`: peers whose link is taken down. */

import { expect } from "bun:test";
import { find, inLab, testInLab } from "../helpers/forward-lab.ts";

const testDead = testInLab(["socat"]);

/** A connection through the proxy that stays open and says nothing more. */
const open = `
mkfifo in
within client socat - tcp:8.8.8.8:80 < in > out &
exec 3> in
echo hello >&3
until_true grep -q hello out
`;

/** The errno of a side that no longer acknowledges anything. */
const silence = expect.stringMatching(/^E(TIMEDOUT|HOSTUNREACH|NETUNREACH)$/);

testDead("both sockets have what was asked for, and neither without asking", async () => {
  const { stdout } = await inLab(`
    at_backend listen --echo --quiet --json '[::]:8080'
    forward '[::]:50080' --to 10.9.2.2:8080 --keepalive 30s --user-timeout 20s
    ${open}
    ss -Htno state established | grep -c 'timer:(keepalive'
    exec 3>&-
    ended
    kill "$proxy"; wait "$proxy"
    rm in
    forward '[::]:50080' --to 10.9.2.2:8080
    ${open}
    ss -Htno state established | grep -c timer || :
    exec 3>&-
    ended
  `);
  expect(stdout).toStartWith("2\n0\n");
});

testDead("a silent client whose link is down is found by keep-alive", async () => {
  const { proxy } = await inLab(`
    at_backend listen --echo --quiet --json '[::]:8080'
    forward :50080 --to 10.9.2.2:8080 --keepalive 1s
    ${open}
    within client ip link set c0 down
    ended
  `);
  expect(find(proxy, "forwarded")).toMatchObject({ ended_by: "client", error: silence });
  expect(find(proxy, "forwarded")).toMatchObject({ client_bytes: 6, upstream_bytes: 6 });
});

testDead("so is a silent upstream", async () => {
  const { proxy } = await inLab(`
    at_backend listen --echo --quiet --json '[::]:8080'
    forward :50080 --to 10.9.2.2:8080 --keepalive 1s
    ${open}
    within backend ip link set b0 down
    ended
  `);
  expect(find(proxy, "forwarded")).toMatchObject({ ended_by: "upstream", error: silence });
});

testDead("what is not acknowledged for --user-timeout ends the connection", async () => {
  const { proxy } = await inLab(`
    at_backend listen --echo --quiet --json '[::]:8080'
    forward :50080 --to 10.9.2.2:8080 --user-timeout 500ms
    ${open}
    within backend ip link set b0 down
    echo lost >&3
    ended
  `);
  expect(find(proxy, "forwarded")).toMatchObject({ ended_by: "upstream", error: silence });
});

testDead("so does what the client does not acknowledge", async () => {
  const { proxy } = await inLab(`
    : > backend.log
    in_background backend socat -u open:/dev/zero tcp-listen:8080,reuseaddr
    until within backend ss -Hltn | grep -q :8080; do :; done
    forward :50080 --to 10.9.2.2:8080 --user-timeout 500ms
    in_background client socat -u tcp:8.8.8.8:80 open:/dev/null
    flows() { ss -Htin state established sport = :80 | grep -q bytes_acked:.....; }
    until_true flows
    within client ip link set c0 down
    ended
  `);
  expect(find(proxy, "forwarded")).toMatchObject({ ended_by: "client", error: silence });
});
