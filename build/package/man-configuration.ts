/** The man page of the configuration file, made of its JSON Schema. Pure. */

import packageJson from "../../package.json" with { type: "json" };
import { configurationSchema } from "../../src/config/json-schema.ts";
import { escaped } from "./roff.ts";

/** The part of a JSON Schema that this page reads. */
interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly enum?: readonly (string | number | boolean)[];
  readonly examples?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly anyOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: unknown;
}

/** The page `tproxy.toml(5)`. */
export function configurationPage(): string {
  const root = configurationSchema() as Schema;
  return [
    `.TH TPROXY.TOML 5 "" "tproxy ${packageJson.version}" "File Formats"`,
    ".SH NAME\ntproxy.toml \\- configuration of tproxy run",
    ".SH SYNOPSIS\n.I /etc/tproxy/tproxy.toml",
    ".SH DESCRIPTION",
    "A configuration describes services, the pools of upstreams that they use, and what all of",
    "them have in common. It is TOML, or JSON of the same shape. Durations, addresses and marks",
    "are text in quotes. Where a list is accepted, a single value may stand alone.",
    ".BR tproxy\\-check (1)\nfinds every problem of a file, with its line and column.",
    `.SH SETTINGS\n${tableText("", root)}`,
    ".SH EXAMPLE\n.nf",
    escaped(example),
    ".fi",
    ".SH FILES",
    ".TP\n.I /etc/tproxy/tproxy.toml\nThe configuration that is read without",
    ".BR \\-c .",
    ".TP\n.I /usr/share/tproxy/tproxy.schema.json\nThe JSON Schema, for completion in an editor.",
    ".SH SEE ALSO\n.BR tproxy (1),\n.BR tproxy\\-run (1),\n.BR tproxy\\-check (1),",
    ".BR tproxy\\-config (1)",
    "",
  ].join("\n");
}

const example = `[routes]
install = "auto"

[[pool]]
name = "web"
to = ["192.0.2.10:8080", "web2.example:8080"]

[[service]]
name = "web"
listen = ":50080"
pool = "web"
capture = { in = "eth0", dport = 80 }`;

/** The settings of a table, and behind them its inner tables, each with a heading. */
function tableText(heading: string, table: Schema): string {
  const settings: string[] = [];
  const inner: string[] = [];
  for (const [name, schema] of Object.entries(table.properties ?? {})) {
    const { schema: found, isList } = tableOf(schema);
    const path = heading === "" ? name : `${heading}.${name}`;
    if (found === undefined) settings.push(settingText(name, schema, table));
    else inner.push(tableHeading(path, schema, isList), innerText(path, found));
  }
  return [...settings, ...inner].join("\n");
}

function innerText(path: string, table: Schema): string {
  // They are explained where they belong.
  if (path !== "defaults") return tableText(path, table);
  const names = Object.keys(table.properties ?? {}).map((name) => escaped(name));
  return `${names.join(", ")}.`;
}

function tableHeading(path: string, { description = "" }: Schema, isList: boolean): string {
  const name = isList ? `[[${path}]]` : `[${path}]`;
  return `.SS ${escaped(name)}\n${escaped(description)}`;
}

/** The table that a setting is, or a list of; undefined for a value. */
function tableOf(schema: Schema): { schema: Schema | undefined; isList: boolean } {
  if (schema.properties !== undefined) return { schema, isList: false };
  const [single, list] = schema.anyOf ?? [];
  const isTables = single?.properties !== undefined && list?.items?.properties !== undefined;
  return { schema: isTables ? single : undefined, isList: isTables };
}

function settingText(name: string, schema: Schema, { required = [] }: Schema): string {
  const takes = escaped(valueText(schema)).replaceAll('"', "\\(dq");
  const isRequired = required.includes(name) ? " It has to be there." : "";
  const about = escaped(schema.description ?? "") + isRequired;
  return `.TP\n.BR ${escaped(name)} " = ${takes}"\n${about}`;
}

/** What a setting takes, in words. */
function valueText(schema: Schema): string {
  if (schema.enum !== undefined) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "boolean") return "true | false";
  if (schema.type === "integer") return integerText(schema);
  if (schema.type === "string")
    return (schema.examples ?? ["text"]).map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "array") return "[ ... ]";
  if (schema.type === "object") return "{ ... }";
  const parts = new Set((schema.anyOf ?? []).map(valueText));
  return [...parts].join(" | ");
}

function integerText({ minimum, maximum }: Schema): string {
  const isSmall = minimum !== undefined && maximum !== undefined && maximum < 2 ** 53 - 1;
  return isSmall ? `${minimum} to ${maximum}` : "a number";
}
