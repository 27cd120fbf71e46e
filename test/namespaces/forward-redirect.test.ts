/** `forward --redirect`: connections that come by NAT, with the rules of `routes --redirect`. */

import { describe, expect } from "bun:test";
import { command, families, find, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testRedirect = testInLab(["curl", "iptables-save"]);

/** The lab without its rules; 8.8.8.8 and 2001:db8::9 are the backend's, by way of its link. */
const bare = `
${ruleFunctions}
routes --remove > removed.log
within backend ip address add 8.8.8.8/32 dev lo
within backend ip address add 2001:db8::9/128 dev lo nodad
ip route add 8.8.8.8/32 via 10.9.2.2
ip route add 2001:db8::9/128 via fd00:2::2
dump before
at_backend listen --json '[::]:80'
curling() { within client curl -sS --max-time 10 --http0.9 "$@"; }
`;

describe.each(families)("IPv$family", ({ family, asked, client }) => {
  testRedirect("the original destination, with rules of its own and of others", async () => {
    const { stdout, proxy, backend } = await inLab(`${bare}
      forward '[::]:50080' --to original --redirect --routes auto --in p0 --dport 80
      curling 'http://${asked}/'
      ended
      kill "$proxy"; wait "$proxy"
      dump after; same before after rules
      cp proxy.log first.log
      routes --apply --redirect --dport 80 --to-port 50080
      forward '[::]:50080' --to original --redirect
      curling 'http://${asked}/'
      ended
      cat first.log >> proxy.log
    `);
    expect(stdout).toContain("hello world");
    expect(stdout).toContain("rules: same\n");
    const carried = proxy.filter(({ event }) => event === "forwarded");
    expect(carried).toHaveLength(2);
    for (const each of carried) {
      expect(each.client).toStartWith(`${client}:`);
      expect(each).toMatchObject({
        original_destination: `${asked}:80`,
        upstream: `${asked}:80`,
        source: "self",
        reason: "done",
      });
    }
    const own = family === "4" ? "10.9.2.1:" : "[fd00:2::1]:";
    expect(find(backend, "accepted")?.client).toStartWith(own);
  });

  testRedirect("a connection goes on while the process drains", async () => {
    const { stdout, proxy } = await inLab(`${bare}
      kill "$server"; wait "$server" || :
      at_backend listen --echo --json '[::]:80'
      forward '[::]:50080' --to original --redirect --routes auto --in p0 --dport 80
      mkfifo in
      within client socat -t20 - 'tcp:${asked}:80' < in > out &
      exec 3> in
      echo before >&3
      until_true grep -q before out
      kill "$proxy"
      # Its rules have been replaced by those of the drain.
      until_true grep -q "may go on for" proxy.log
      for word in one two three; do
        echo $word >&3
        until_true grep -q $word out
      done
      exec 3>&-
      wait "$proxy" && cat out
      dump after; same before after rules
    `);
    expect(stdout).toContain("before\none\ntwo\nthree\nrules: same\n");
    expect(find(proxy, "forwarded")).toMatchObject({ reason: "done", client_bytes: 21 });
  });

  testRedirect("one that was not redirected is no way to the proxy itself", async () => {
    const own = family === "4" ? "10.9.1.1" : "[fd00:1::1]";
    const { proxy } = await inLab(`${bare}
      forward '[::]:50080' --to original --redirect
      curling 'http://${own}:50080/' 2> /dev/null || :
      ended
    `);
    expect(find(proxy, "forwarded")).toMatchObject({
      original_destination: `${own}:50080`,
      ...{ reason: "dial-rejected", detail: "it would be carried to this proxy itself" },
    });
  });
});

testRedirect("what this host sends, and while it drains open connections go on", async () => {
  const { stdout, proxy } = await inLab(`${bare}
    forward ':50080' --to original --redirect --routes auto --dport 80 --local
    curl -sS --max-time 10 --http0.9 http://8.8.8.8/
    kill "$server"; wait "$server" || :
    at_backend listen --echo --json '[::]:80'
    mkfifo in
    within client socat -t20 - tcp:8.8.8.8:80 < in > out &
    exec 3> in
    echo before >&3
    until_true grep -q before out
    kill "$proxy"
    echo after >&3
    until_true grep -q after out
    exec 3>&-
    wait "$proxy" && cat out
    dump after; same before after rules
  `);
  expect(stdout).toContain("hello world\nbefore\nafter\nrules: same\n");
  const [own, from] = proxy.filter(({ event }) => event === "forwarded");
  expect(own?.client).toStartWith("10.9.2.1:");
  expect(from?.client).toStartWith("10.9.1.2:");
});

testRedirect("--source client: the rules of a way back are another command's", async () => {
  const { stdout } = await inLab(`${bare}
    : > proxy.log
    ${command} forward :50080 --to original --redirect --source client --routes auto 2>&1 ||
      echo "status $?"
  `);
  expect(stdout).toContain("excludes --redirect, which brings no replies back");
  expect(stdout).toContain("status 2\n");
});
