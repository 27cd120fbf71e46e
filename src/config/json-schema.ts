/** The JSON Schema of a configuration file: loaded when it is asked for, and by the build. Pure. */

import { toJsonSchema } from "@valibot/to-json-schema";
import { configurationKind } from "./settings.ts";

/** For editors, and for whatever makes configurations. */
export function configurationSchema(): Record<string, unknown> {
  const schema = toJsonSchema(configurationKind.wire, { target: "draft-2020-12" });
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Configuration of tproxy",
    ...schema,
  };
}
