/** What a metric is made of, and the metrics that are a figure each. Pure. */

import type { CounterName } from "../../workers/counters.ts";
import type { MetricsData, ServiceFigures, UpstreamFigures } from "./data.ts";
import type { Family } from "./text.ts";

/** Figures with the labels that most samples have. */
export interface Labelled {
  readonly data: MetricsData;
  readonly services: readonly (ServiceFigures & { readonly labels: string })[];
  readonly upstreams: readonly (UpstreamFigures & { readonly labels: string })[];
}

export type Metric = Family<Labelled>;
export type Kind = Metric["type"];

/** One figure of the whole process; undefined: it is left out. */
export function single(
  name: string,
  type: Kind,
  help: string,
  value: (data: MetricsData) => number | undefined,
): Metric {
  return {
    ...{ name, type, help },
    samples: ({ data }, add) => {
      const figure = value(data);
      if (figure !== undefined) add("", figure);
    },
  };
}

/** A counter of each service that carries `protocol`, or of every service. */
export function counted(
  name: string,
  type: Kind,
  help: string,
  counter: CounterName,
  protocol?: "tcp" | "udp",
): Metric {
  return {
    ...{ name, type, help },
    samples: ({ services }, add) => {
      for (const service of services) {
        if (protocol !== undefined && !service.protocols.includes(protocol)) continue;
        add(service.labels, service.counters[counter]);
      }
    },
  };
}
