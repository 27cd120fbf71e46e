import { expect, test } from "bun:test";
import type { ServiceFigures } from "../../../../src/control/metrics/data.ts";
import { type CounterName, valuesOf } from "../../../../src/workers/counters.ts";
import { endReasonList } from "../../../../src/workers/end-reason.ts";
import { metricsData, metricsString } from "../../../helpers/metrics-data.ts";
import { testWith, which } from "../../../helpers/tools.ts";

/** The samples of a name. */
const samplesOf = (text: string, name: string) =>
  text.split("\n").filter((line) => new RegExp(`^${name}[ {]`).test(line));

test("each figure has a sample with its labels", () => {
  const text = metricsString(metricsData(1, 1));
  expect(text).toStartWith(
    "# HELP tproxy_build_info The executable that runs; always 1.\n" +
      "# TYPE tproxy_build_info gauge\n" +
      'tproxy_build_info{version="1.2.3",commit="abc",bun="1.4.5"} 1\n',
  );
  for (const line of [
    "tproxy_start_time_seconds 1700000000.5",
    "process_open_fds 20",
    "tproxy_config_last_reload_successful 1",
    'tproxy_connections_accepted_total{service="service0"} 0',
    'tproxy_connections_closed_total{service="service0",ended_by="client",reason="done"} 1',
    'tproxy_connections_refused_total{service="service0",reason="client-limit"} 1',
    'tproxy_sessions_ended_total{service="service0",reason="idle-timeout"} 1',
    'tproxy_sessions_refused_total{service="service0",reason="overloaded"} 1',
    'tproxy_datagrams_total{service="service0",direction="upstream"} 0',
    'tproxy_upstream_up{pool="service0",upstream="192.0.2.0:80"} 1',
    'tproxy_upstream_connects_total{pool="service0",upstream="192.0.2.0:80"} 1000',
    'tproxy_upstream_check_seconds{pool="service0",upstream="192.0.2.0:80"} 0.0015',
    'tproxy_log_lines_dropped_total{sink="stdout"} 4',
    'tproxy_routes_installed{part="firewall"} 1',
    'tproxy_routes_installed{part="rule"} 0',
    'tproxy_routes_repaired_total{part="setting"} 1',
    'tproxy_worker_deaths_total{worker="2"} 1',
    'tproxy_worker_turn_seconds_max{worker="1"} 0.00125',
    `tproxy_datagrams_dropped_total{service="service0",reason="hop-limit"} ${endReasonList.length}`,
  ]) {
    expect(text).toContain(`${line}\n`);
  }
  const failures = samplesOf(text, "tproxy_upstream_connect_failures_total");
  expect(failures.map((line) => /reason.*$/.exec(line)?.[0])).toEqual(['reason="refused"} 1']);
  expect(samplesOf(text, "tproxy_routes_installed").length).toBe(2);
  expect(samplesOf(text, "tproxy_connections_closed_total").join()).not.toContain("client-limit");
});

test("open connections are counted by what they do, and none is counted twice", () => {
  const [only] = metricsData(1, 0).services as [ServiceFigures];
  const open = (figures: Partial<Record<CounterName, number>>) => {
    const services = [{ ...only, counters: valuesOf(figures) }];
    const samples = samplesOf(
      metricsString({ ...metricsData(1, 0), services }),
      "tproxy_connections_open",
    );
    return samples.map((line) => /state="(.*)"} (.*)$/.exec(line)?.slice(1).join(" "));
  };
  const waiting = { headerConnections: 1, queuedConnections: 2 };
  const relaying = { relayingConnections: 5, halfClosedConnections: 3 };
  expect(open({ active: 12, ...waiting, ...relaying })).toEqual([
    ...["header 1", "queued 2", "connecting 4", "relaying 2", "half-closed 3"],
  ]);
  // Read while a Worker has counted a move by half.
  expect(open({ active: 0, relayingConnections: 1, halfClosedConnections: 2 })).toEqual([
    ...["header 0", "queued 0", "connecting 0", "relaying 0", "half-closed 2"],
  ]);
});

test("a histogram is cumulative, and its last class has all", () => {
  const text = metricsString(metricsData(1, 0));
  const name = "tproxy_connection_duration_seconds";
  const counts = samplesOf(text, `${name}_bucket`).map((line) => Number(line.split(" ").at(-1)));
  expect(counts.length).toBe(12);
  expect(counts).toEqual(counts.toSorted((a, b) => a - b));
  const [total] = samplesOf(text, `${name}_count`);
  expect(total).toBe(`${name}_count{service="service0"} ${counts.at(-1)}`);
  expect(samplesOf(text, `${name}_bucket`).at(-1)).toContain('le="+Inf"');
});

test("pools that several services share have their histogram once", () => {
  const data = metricsData(2, 0);
  const shared = data.services.map((service) => ({ ...service, pool: "web" }));
  const once = metricsString({ ...data, services: shared });
  const name = "tproxy_upstream_connect_seconds_count";
  const alone = Number(samplesOf(metricsString(metricsData(1, 0)), name)[0]?.split(" ")[1]);
  expect(samplesOf(once, name)).toEqual([`${name}{pool="web"} ${2 * alone}`]);
});

test("no figure is there twice, and each family is in one piece", () => {
  const text = metricsString(metricsData(3, 2));
  const lines = text.trimEnd().split("\n");
  const samples = lines.filter((line) => !line.startsWith("#"));
  const series = samples.map((line) => line.slice(0, line.lastIndexOf(" ")));
  expect(new Set(series).size).toBe(series.length);
  const types = lines.flatMap((line) => /^# TYPE (\S+)/.exec(line)?.[1] ?? []);
  expect(new Set(types).size).toBe(types.length);
});

test("whatever a label holds, it cannot make a line or a label", () => {
  const hostile = 'a"} 1\ntproxy_evil 1\n\\';
  const text = metricsString(metricsData(1, 1, () => hostile));
  expect(text).toContain('service="a\\"} 1\\ntproxy_evil 1\\n\\\\"');
  expect(text.split("\n").filter((line) => line.startsWith("tproxy_evil"))).toEqual([]);
});

test("what is not there has no sample", () => {
  const data = metricsData(0, 0);
  const process = { ...data.process, openFds: undefined };
  const text = metricsString({ ...data, process, routes: [] });
  for (const name of ["process_open_fds", "tproxy_routes_installed", "tproxy_upstream_up"]) {
    expect(text).not.toContain(name);
  }
});

testWith(["promtool"])("promtool finds nothing wrong", () => {
  const hostile = (index: number) => `${index}"} \n\\`;
  for (const data of [metricsData(3, 2), metricsData(2, 2, hostile)]) {
    const { stdout, stderr, exitCode } = Bun.spawnSync(
      [which("promtool") as string, "check", "metrics"],
      { stdin: Buffer.from(metricsString(data)) },
    );
    expect([stdout.toString(), stderr.toString(), exitCode]).toEqual(["", "", 0]);
  }
});
