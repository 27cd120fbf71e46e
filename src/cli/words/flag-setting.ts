/** Settings as the command line spells them. Pure. */

import type { NamedSetting, SettingWords } from "../../config/setting-words.ts";

/** The options with another name than their setting. */
const names: Partial<Readonly<Record<NamedSetting, string>>> = { install: "routes" };

/** `--table-name`, or with a value `--in eth0`. */
export const flagSetting: SettingWords = (setting, value) =>
  `--${names[setting] ?? setting}${value === undefined ? "" : ` ${value}`}`;
