/** The option that names the configuration, which several commands have. */

import { withDefault } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { prose } from "../prose.ts";
import { fileValue } from "./values.ts";

/** The default path of the configuration. */
const configurationPath = "/etc/tproxy/tproxy.toml";

/** The configuration's file. */
export const configOption = withDefault(
  option("-c", "--config", fileValue(), {
    description: prose`The configuration file, TOML or JSON; ${configurationPath} by default, ${"-"}
      for standard input.`,
  }),
  configurationPath,
);
