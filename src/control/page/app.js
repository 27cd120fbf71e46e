/* The page of tproxy. It reads, and it puts text from elsewhere into `textContent` only. */
/* global uPlot */

(() => {
  const samplesMax = 300;
  const warningsMax = 100;
  /** Without a status for so long there is no connection, whatever the stream says. */
  const silentMs = 5_000;
  const retryMs = 1_000;

  const byId = (id) => document.getElementById(id);

  // Amounts

  function scaled(value, unit) {
    const prefixes = ["", "k", "M", "G", "T"];
    let scale = 0;
    let rest = Math.max(0, value);
    while (rest >= 999.5 && scale < prefixes.length - 1) {
      rest /= 1000;
      scale++;
    }
    const digits =
      rest > 0 && rest < 9.95 && (scale > 0 || unit === "") ? rest.toFixed(1) : Math.round(rest);
    return `${digits} ${prefixes[scale]}${unit}`.trim();
  }

  const bytes = (value) => scaled(value, "B");
  const rate = (value) => `${bytes(value)}/s`;
  const count = (value) => (value < 1000 ? String(value) : scaled(value, ""));

  function time(ms) {
    if (ms < 1000) return `${Math.round(ms)} ms`;
    const seconds = Math.floor(ms / 1000);
    const parts = [
      [Math.floor(seconds / 86_400), "d"],
      [Math.floor(seconds / 3_600) % 24, "h"],
      [Math.floor(seconds / 60) % 60, "min"],
      [seconds % 60, "s"],
    ];
    const first = parts.findIndex(([amount]) => amount > 0);
    const shown = parts.slice(first, first + 2).filter(([amount]) => amount > 0);
    return shown.map(([amount, unit]) => `${amount} ${unit}`).join(" ");
  }

  // Tables

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  /** `columns`: title, class of the cells. `rows`: cells, and whether something is wrong. */
  function showTable(id, columns, rows, none) {
    if (rows.length === 0) return byId(id).replaceChildren(element("p", none, "none"));
    const table = element("table");
    const head = element("tr");
    for (const [title, className] of columns) {
      const cell = element("th", title, className);
      cell.scope = "col";
      head.append(cell);
    }
    const body = element("tbody");
    for (const { cells, isBad } of rows) {
      const row = element("tr", undefined, isBad ? "bad" : "");
      for (const [at, [, className]] of columns.entries()) {
        row.append(element("td", cells[at], className));
      }
      body.append(row);
    }
    const thead = element("thead");
    thead.append(head);
    table.append(thead, body);
    byId(id).replaceChildren(table);
  }

  // Charts

  /** Seconds since 1970, then the rows of the charts. */
  let series = [[], [], [], []];
  let charts = [];

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  const lastMinutes = (last) => [last - samplesMax, last];
  const clock = (seconds) => new Date(1000 * seconds).toTimeString().slice(0, 5);

  function makeChart(id, lines, format) {
    const holder = byId(id);
    holder.replaceChildren();
    const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 } };
    const options = {
      width: Math.max(200, holder.clientWidth),
      height: 180,
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { range: (_, __, last) => lastMinutes(last ?? Date.now() / 1000) },
        y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] },
      },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(clock) },
        { ...axis, size: 70, values: (_, ticks) => ticks.map(format) },
      ],
      series: [{}, ...lines.map((name) => ({ stroke: color(name), width: 1.5 }))],
    };
    return new uPlot(options, undefined, holder);
  }

  function makeCharts() {
    for (const { plot } of charts) plot.destroy();
    charts = [
      { plot: makeChart("bytes", ["--out", "--in"], rate), rows: [0, 2, 3] },
      { plot: makeChart("begun", ["--out"], count), rows: [0, 1] },
    ];
    drawCharts();
  }

  function drawCharts() {
    for (const { plot, rows } of charts) plot.setData(rows.map((row) => series[row]));
  }

  function addSample(seconds, begun, out, back) {
    [seconds, begun, out, back].forEach((value, row) => {
      series[row].push(value);
      if (series[row].length > samplesMax) series[row].shift();
    });
  }

  async function loadHistory() {
    const response = await fetch("/v1/history");
    if (!response.ok) return;
    const { samples } = await response.json();
    series = [[], [], [], []];
    for (const [at, begun, out, back] of samples) addSample(at / 1000, begun, out, back);
    drawCharts();
  }

  // Statuses

  let before;
  const rates = new Map();

  const openOf = ({ active = 0, active_sessions = 0 }) => active + active_sessions;

  function ofCounters(counters) {
    const { accepted = 0, sessions = 0, client_bytes = 0, upstream_bytes = 0 } = counters;
    return [accepted + sessions, client_bytes, upstream_bytes];
  }

  function ofUpstream({ addresses }) {
    const sum = [0, 0, 0];
    for (const { counters = {} } of addresses) {
      const { connects = 0, sessions = 0, client_bytes = 0, upstream_bytes = 0 } = counters;
      [connects + sessions, client_bytes, upstream_bytes].forEach((value, at) => {
        sum[at] += value;
      });
    }
    return sum;
  }

  function amountsOf(status) {
    const amounts = new Map([["all", ofCounters(status.counters)]]);
    for (const service of status.services) {
      amounts.set(`service ${service.name}`, ofCounters(service.counters));
    }
    for (const pool of status.pools) {
      for (const upstream of pool.upstreams) {
        amounts.set(`upstream ${pool.name} ${upstream.name}`, ofUpstream(upstream));
      }
    }
    return amounts;
  }

  /** Rates between the last status and this one, if they are of one process. */
  function measure(status) {
    const process = `${status.pid} ${status.start_time}`;
    const at = Date.parse(status.time);
    const amounts = amountsOf(status);
    const seconds = before === undefined ? 0 : (at - before.at) / 1000;
    const isNext = before !== undefined && before.process === process && seconds > 0;
    rates.clear();
    if (isNext) {
      for (const [key, now] of amounts) {
        const then = before.amounts.get(key);
        if (then === undefined) continue;
        rates.set(
          key,
          now.map((value, index) => Math.max(0, value - then[index]) / seconds),
        );
      }
    }
    before = { process, at, amounts };
    if (isNext) addSample(at / 1000, ...rateOf("all"));
  }

  const rateOf = (key) => rates.get(key) ?? [0, 0, 0];

  function showState(text, isBad) {
    const state = byId("state");
    // A screen reader is told only what has changed.
    if (state.textContent !== text) state.textContent = text;
    state.className = isBad ? "bad" : "";
  }

  function showStatus(status) {
    measure(status);
    byId("version").textContent = status.version;
    const up = Date.parse(status.time) - Date.parse(status.start_time);
    const parts = [
      `pid ${status.pid}`,
      `up ${time(Math.max(0, up))}`,
      `generation ${status.generation}`,
      `workers ${status.workers}`,
      `${openOf(status.counters)} open`,
    ];
    byId("about").textContent = parts.join(" · ");
    const { problems } = status;
    showState(problems.length === 0 ? "all is well" : problems.join(", "), problems.length > 0);
    showServices(status);
    showUpstreams(status);
    showConnections(status);
    drawCharts();
  }

  function showServices({ services }) {
    const columns = [
      ["Service", ""],
      ["State", ""],
      ["Open", "number"],
      ["New/s", "number"],
      ["From clients", "number"],
      ["To clients", "number"],
      ["Failed", "number"],
      ["Listens at", ""],
      ["Pool", ""],
    ];
    const rows = services.map(({ name, state, counters, listeners, pool }) => {
      const [begun, out, back] = rateOf(`service ${name}`);
      const at = listeners.map(({ protocol, address }) => `${protocol}://${address}`).join(" ");
      return {
        cells: [
          ...[name, state, count(openOf(counters)), scaled(begun, ""), rate(out), rate(back)],
          ...[count(counters.failed ?? 0), at, pool],
        ],
        isBad: state !== "up",
      };
    });
    showTable("services", columns, rows, "There are none.");
  }

  function showUpstreams({ pools, time: at }) {
    const columns = [
      ["Upstream", ""],
      ["Pool", ""],
      ["State", ""],
      ["For", "number"],
      ["New/s", "number"],
      ["From clients", "number"],
      ["To clients", "number"],
      ["Weight", "number"],
      ["Address", ""],
      ["Reason", "wrapped"],
    ];
    const rows = pools.flatMap((pool) =>
      pool.upstreams.map((upstream) => {
        const { name, state, since, weight, reason, addresses } = upstream;
        const [begun, out, back] = rateOf(`upstream ${pool.name} ${name}`);
        const isFor =
          since === undefined ? "" : time(Math.max(0, Date.parse(at) - Date.parse(since)));
        const places = addresses.map((each) => (typeof each === "string" ? each : each.address));
        return {
          cells: [
            ...[name, pool.name, state, isFor, scaled(begun, ""), rate(out), rate(back)],
            ...[weight === undefined ? "" : String(weight), places.join(" "), reason],
          ],
          isBad: state !== "up",
        };
      }),
    );
    showTable("upstreams", columns, rows, "There are none.");
  }

  function showConnections({ connections, matched }) {
    byId("matched").textContent = `${connections.length} of ${matched}`;
    const columns = [
      ["Client", ""],
      ["Original destination", ""],
      ["Upstream", ""],
      ["State", ""],
      ["Age", "number"],
      ["Idle", "number"],
      ["From client", "number"],
      ["To client", "number"],
      ["Total", "number"],
    ];
    const rows = connections.map((each) => ({
      cells: [
        ...[`${each.protocol} ${each.client}`, each.original_destination, each.upstream ?? ""],
        ...[each.state, time(each.ms), time(each.idle_ms), rate(each.client_rate ?? 0)],
        ...[rate(each.upstream_rate ?? 0), bytes(each.client_bytes + each.upstream_bytes)],
      ],
      isBad: false,
    }));
    showTable("connections", columns, rows, "There are none.");
  }

  // Warnings

  let warnings = [];

  function showWarnings() {
    const columns = [
      ["Time", ""],
      ["Level", ""],
      ["Text", "wrapped"],
    ];
    const rows = warnings.map((line) => ({
      cells: [line.time.slice(0, 19).replace("T", " "), line.level, line.text],
      isBad: line.level === "error",
    }));
    showTable("warnings", columns, rows, "There are none.");
  }

  // Streams: EventSource reconnects by itself, unless the answer is an error.

  function follow(target, handlers, opened) {
    const stream = new EventSource(target);
    stream.addEventListener("open", opened);
    for (const [name, handle] of Object.entries(handlers)) {
      stream.addEventListener(name, ({ data }) => handle(JSON.parse(data)));
    }
    stream.addEventListener("error", (event) => {
      // The server may send an event of this name, too.
      if (event.data !== undefined) return;
      noteSilence();
      if (stream.readyState !== EventSource.CLOSED) return;
      setTimeout(() => follow(target, handlers, opened), retryMs);
    });
  }

  let silence;

  const noteSilence = () => showState("no connection: these figures are old", true);

  function hear(status) {
    clearTimeout(silence);
    silence = setTimeout(noteSilence, silentMs);
    showStatus(status);
  }

  showWarnings();
  makeCharts();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);
  addEventListener("resize", () => {
    for (const { plot } of charts) {
      const width = Math.max(200, plot.root.parentElement.clientWidth);
      plot.setSize({ width, height: 180 });
    }
  });
  follow(
    "/v1/events?every=1s&top=20&sort=rate",
    { status: hear },
    () => void loadHistory().catch(noteSilence),
  );
  follow(
    "/v1/log?follow=1&level=warning&limit=100",
    {
      line: (line) => {
        warnings = [line, ...warnings].slice(0, warningsMax);
        showWarnings();
      },
    },
    // The stream begins with the last lines again.
    () => {
      warnings = [];
      showWarnings();
    },
  );
})();
