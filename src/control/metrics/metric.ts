/** The parts of a metric, and the metrics that are a figure each. Pure. */

import type { Scheme } from "../../net/target.ts";
import { Counter, type CounterName } from "../../workers/counters.ts";
import type { MetricsData } from "./data.ts";
import { encoded, type Family, none } from "./text.ts";

export type Metric = Family<MetricsData>;
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
    samples: (data, out) => {
      const figure = value(data);
      if (figure !== undefined) out.add(none, figure);
    },
  };
}

/** A counter of each service that carries `protocol`, or of every service. */
export function counted(
  name: string,
  type: Kind,
  help: string,
  counter: CounterName,
  protocol?: Scheme,
): Metric {
  const at = Counter[counter];
  return {
    ...{ name, type, help },
    samples: ({ services }, out) => {
      for (const { protocols, labels, counters } of services) {
        if (protocol === undefined || protocols.includes(protocol)) {
          out.add(labels, counters[at] as number);
        }
      }
    },
  };
}

/** A place of the numbers of a service, or several that are summed, and its words as labels. */
export interface WordPlace {
  readonly places: readonly number[];
  /** `,reason="idle-timeout"`. */
  readonly labels: Uint8Array;
}

/** Places by their labels: those with the same labels are summed. */
export function wordPlaces(
  all: readonly { readonly at: number; readonly labels: string }[],
): readonly WordPlace[] {
  const found = Map.groupBy(all, ({ labels }) => labels);
  return [...found].map(([labels, each]) => ({
    labels: encoded(`,${labels}`),
    places: each.map(({ at }) => at),
  }));
}

/** Counts of each service by words; those that have not happened have no sample. */
export function tallied(name: string, help: string, words: readonly WordPlace[]): Metric {
  return {
    ...{ name, type: "counter", help },
    samples: ({ services }, out) => {
      for (const { labels: of, tally } of services) {
        for (const { places, labels } of words) {
          let sum = 0;
          for (const at of places) sum += tally[at] as number;
          if (sum !== 0) out.add(of, sum, labels);
        }
      }
    },
  };
}
