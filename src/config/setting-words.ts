/** How a text spells a setting: with a flag on the command line, with a key in a file. Pure. */

import { quote } from "../net/result.ts";

/** The settings that texts below the command line name. */
export type NamedSetting =
  | "family"
  | "guard-mark"
  | "in"
  | "install"
  | "mark"
  | "priority"
  | "sysctl"
  | "table"
  | "table-name";

/** The text of a setting, with a value if one is given: `--table-name`, `table-name = "web"`. */
export type SettingWords = (setting: NamedSetting, value?: string) => string;

const ofRoutes: ReadonlySet<NamedSetting> = new Set([
  "install",
  "mark",
  "priority",
  "sysctl",
  "table",
  "table-name",
]);

/** As a configuration file spells it; those of the rules as a whole with their table. */
export const fileSetting: SettingWords = (setting, value) => {
  const key = ofRoutes.has(setting) ? `[routes] ${setting}` : setting;
  if (setting === "sysctl") return `${key} = true`;
  return value === undefined ? key : `${key} = ${quote(value)}`;
};
