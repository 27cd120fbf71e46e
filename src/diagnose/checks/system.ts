/** The checks of the system, whatever is captured. Pure: facts in, findings out. */

import { featureNames } from "../snapshot/features.ts";
import type { SystemFacts } from "../snapshot/system-facts.ts";
import { checkConntrack } from "./conntrack.ts";
import { type Finding, failure, ok, unknown, warning } from "./finding.ts";
import { explainReasons, type Need, ruleNeeds, transparentNeeds, unmet } from "./privileges.ts";

type SystemCheck = (facts: SystemFacts) => Finding | readonly Finding[];

const systemChecks: readonly SystemCheck[] = [
  checkCapabilities,
  checkFileCapabilities,
  checkFeatures,
  checkLo,
  checkSourceSettings,
  checkForwarding,
  checkBridges,
  checkDescriptors,
  ({ conntrack }) => checkConntrack(conntrack),
  checkLeft,
];

/** Runs them all. */
export function judgeSystem(facts: SystemFacts): readonly Finding[] {
  return systemChecks.flatMap((check) => check(facts));
}

function checkCapabilities({ capabilities, ownsNetwork, needs }: SystemFacts): Finding[] {
  const held = { effective: capabilities, ownsNetwork };
  const lacks = (wanted: readonly Need[]) => {
    const missing = unmet(wanted, held);
    return missing.length === 0 ? undefined : `${explainReasons(missing, held)}.`;
  };
  const sockets = lacks(transparentNeeds);
  const rules = lacks(ruleNeeds("apply routes"));
  const found = needs.flatMap((need) => {
    const text = lacks([need]);
    if (text === undefined) return [];
    const make = need.otherwise === undefined ? failure : warning;
    return [make("capabilities", text, `${need.instead ?? "sudo tproxy …"}`)];
  });
  if (sockets !== undefined) {
    const text = `${sockets.slice(0, -1)}: as it is now, no listener can be transparent.`;
    const repair = "sudo tproxy …, or AmbientCapabilities=CAP_NET_ADMIN in the service";
    return [failure("capabilities", text, repair), ...found];
  }
  if (rules !== undefined) {
    const text = "CAP_NET_RAW allows IP_TRANSPARENT, but rules and routes need CAP_NET_ADMIN.";
    return [warning("capabilities", text, "sudo tproxy …"), ...found];
  }
  if (found.length > 0) return found;
  return [ok("capabilities", "CAP_NET_ADMIN: IP_TRANSPARENT, rules and routes.")];
}

function checkFileCapabilities(facts: SystemFacts): Finding {
  const { fileCapabilities, executable, obeysVariables } = facts;
  if (fileCapabilities === undefined) {
    return unknown("executable", `The extended attributes of ${executable} cannot be read.`);
  }
  if (!fileCapabilities) return ok("executable", "It carries no file capabilities.");
  if (!obeysVariables) {
    const text = "It carries file capabilities: anyone who may start it uses tproxy with them.";
    return ok("executable", text);
  }
  const text =
    `${executable} carries file capabilities: anyone who may start it can run code of his own ` +
    "with them by BUN_OPTIONS or BUN_BE_BUN.";
  return warning("executable", text, `setcap -r ${executable}, or the static executable`);
}

function checkFeatures({ features }: SystemFacts): Finding {
  if (features.kind === "untested") {
    const text =
      "What the kernel can do was not tried: that takes a private network namespace " +
      `(${features.reason}).`;
    return unknown("kernel", text, "sudo tproxy doctor");
  }
  const { missing } = features;
  const has = featureNames.filter((name) => !missing.has(name));
  const lacks = [...missing].map(([name, code]) => `${name} (${code})`);
  if (lacks.length === 0) return ok("kernel", `It has ${has.join(", ")}.`);
  const lacksNft = missing.has("nft tproxy");
  const lacksXt = missing.has("xt_TPROXY");
  const text = `It has not ${lacks.join(", ")}; it has ${has.join(", ") || "nothing of that"}.`;
  const modules = "modprobe -a nft_tproxy nft_socket xt_TPROXY xt_socket";
  if ((lacksNft && lacksXt) || missing.has("IP_TRANSPARENT")) {
    return failure("kernel", text, modules);
  }
  if (lacksNft) return warning("kernel", `${text} Use iptables.`, modules);
  return warning("kernel", lacksXt ? `${text} Use nft.` : text, modules);
}

function checkLo({ loUp }: SystemFacts): Finding {
  if (loUp) return ok("lo", "It is up.");
  const text =
    "lo is down: nothing arrives that this host sends to itself, so neither local capture nor a " +
    "listener on 127.0.0.1 works.";
  return failure("lo", text, "ip link set lo up");
}

function checkSourceSettings({ sysctls }: SystemFacts): Finding {
  const at = (name: string) => sysctls.get(`net.ipv4.conf.all.${name}`);
  const names = ["src_valid_mark", "rp_filter", "accept_local", "route_localnet"];
  const unread = names.filter((name) => at(name) === undefined);
  if (unread.length > 0) return unreadable("source checks", unread.join(", "));
  const text = names.map((name) => `${name} ${at(name)}`).join(", ");
  if (at("src_valid_mark") === 1 && at("accept_local") !== 1) {
    const why =
      "With src_valid_mark the source of a marked packet is looked up with its mark, which finds " +
      "this host: captured packets of other hosts are dropped in silence.";
    const repair = "sysctl -w net.ipv4.conf.IFACE.accept_local=1, or: ip rule add iif IFACE …";
    return warning("source checks", `${text}. ${why}`, repair);
  }
  return ok("source checks", `For all interfaces: ${text}.`);
}

/** Rules that outlive their process, which has ended. */
function checkLeft({ left }: SystemFacts): Finding[] {
  return left.map((name) => {
    const text =
      `The firewall table inet ${name} is in force, and the process that made it has ended: ` +
      "the next start of its services takes it over.";
    return warning("left rules", text, "tproxy routes --remove");
  });
}

function checkForwarding({ sysctls }: SystemFacts): Finding {
  const value = sysctls.get("net.ipv4.ip_forward");
  if (value === undefined) return unreadable("forwarding", "ip_forward");
  const on = value === 1;
  const text = on
    ? "ip_forward is 1: what is not captured is routed on."
    : "ip_forward is 0, which captured packets do not need: what is not captured is dropped.";
  return ok("forwarding", text);
}

function checkBridges({ sysctls, bridges }: SystemFacts): Finding {
  const names = ["iptables", "ip6tables"].map((name) => `net.bridge.bridge-nf-call-${name}`);
  const on = names.filter((name) => sysctls.get(name) === 1);
  const [first] = bridges;
  if (first === undefined) return ok("bridges", "There is no bridge here.");
  // The file is missing although /proc is readable: br_netfilter is not loaded.
  if (!sysctls.has("net.ipv4.ip_forward")) return unreadable("bridges", names.join(" and "));
  if (on.length === 0) return ok("bridges", "Bridged packets do not pass iptables.");
  const text =
    `${on.join(" and ")} is 1: packets of ${bridges.join(", ")} pass PREROUTING before they are ` +
    "routed, and TPROXY of them fails.";
  return warning("bridges", text, on.map((name) => `sysctl -w ${name}=0`).join("; "));
}

/** Settings of the kernel that /proc/sys does not show to this process. */
function unreadable(check: string, names: string): Finding {
  return unknown(check, `${names}: cannot be read in /proc/sys.`, "sudo tproxy doctor");
}

/** Below this, some 2,000 spliced connections exhaust the descriptors: 6 each. */
const descriptorsWanted = 16_384;

function checkDescriptors({ descriptorsMax }: SystemFacts): Finding {
  if (descriptorsMax === undefined) return unknown("descriptors", "Their limit cannot be read.");
  if (descriptorsMax >= descriptorsWanted) {
    return ok("descriptors", `Up to ${descriptorsMax} at once.`);
  }
  const text =
    `At most ${descriptorsMax} at once, and a spliced connection can need 6: enough for some ` +
    `${Math.floor(descriptorsMax / 6)} connections.`;
  return warning("descriptors", text, "LimitNOFILE=1048576 in the service, or ulimit -Hn");
}
