/** The stage of acts 3 to 5: a Plan applied to a box, a listener on it, a client behind a cable. */

import type { Port } from "../../ffi/types.ts";
import type { Plan } from "../capture/plan/plan.ts";
import { applySteps, type Step } from "../capture/plan/steps.ts";
import { PathWatch } from "../diagnose/probe/observe.ts";
import { diagnosePath, type PathObservations, type PathVerdict } from "../diagnose/probe/path.ts";
import type { Family } from "../net/address.ts";
import { addresses, alone, planFor, webPort } from "./addresses.ts";
import { layCable } from "./bind-scenario.ts";
import { type Answered, ask } from "./client.ts";
import type { Context } from "./context.ts";
import { helloWorld, Server } from "./server.ts";
import { cableInterface, type Veth } from "./topology-builder.ts";

/** One attempt of the client, and the evidence of the box's kernel. */
export interface Attempt {
  readonly answered: Answered;
  readonly seen: PathObservations;
  readonly verdict: PathVerdict;
}

export class Topology {
  readonly family: Family;
  readonly plan: Plan;
  readonly cable: Veth;
  server: Server | undefined;
  private readonly context: Context;

  private constructor(family: Family, context: Context, cable: Veth) {
    this.family = family;
    this.context = context;
    this.cable = cable;
    this.plan = planFor({
      destinations: [alone(addresses[family].foreign)],
      ports: [{ from: webPort as Port, to: webPort as Port }],
      interfaces: [cableInterface],
    });
  }

  /**
   * Sets the stage: the cable and the Plan, with no listener yet.
   * @throws NetlinkError, Interrupted
   */
  static async set(family: Family, context: Context): Promise<Topology> {
    const cable = await layCable(family, context);
    try {
      const scene = new Topology(family, context, cable);
      for (const step of applySteps(scene.plan)) scene.perform(step);
      return scene;
    } catch (error) {
      cable.close();
      throw error;
    }
  }

  /** Carries out a step on the box. */
  perform(step: Step): void {
    this.context.means.perform(this.cable.box, step);
  }

  /** Puts a listener on the box, instead of the one before. */
  async listen(transparent: boolean): Promise<Server> {
    await this.stopListening();
    const address = addresses[this.family].any.bytes;
    const options = { protocol: "tcp", address, port: webPort, transparent } as const;
    const answer = helloWorld;
    this.server = new Server(this.cable.box, { ...options, answer }, this.context.setting);
    return this.server;
  }

  async stopListening(): Promise<void> {
    await this.server?.stop();
    this.server = undefined;
  }

  /** The client asks for the foreign address; the box's kernel is watched meanwhile. */
  async attempt(timeoutMs: number): Promise<Attempt> {
    const { box, client } = this.cable;
    const { foreign } = addresses[this.family];
    const [chain] = this.plan.firewall.chains;
    const mark = this.plan.ipRules[0]?.mark;
    if (chain === undefined || mark === undefined) throw new Error("an empty plan");
    const watch = box.run(
      () =>
        new PathWatch(box.control, {
          client: addresses[this.family].client,
          destination: foreign,
          port: webPort,
          iif: box.control.interfaceIndex(cableInterface),
          mark,
          firewall: { table: this.plan.firewall.name, chain: chain.name },
        }),
    );
    const question = { to: foreign, port: webPort, timeoutMs };
    const answered = await ask(client, question, this.context.setting.signal);
    const seen = box.run(() => watch.observe(answered.connected, this.server?.fd));
    return { answered, seen, verdict: diagnosePath(seen) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.stopListening();
    } finally {
      this.cable.close();
    }
  }
}
