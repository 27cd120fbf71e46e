import type { Mark } from "../../ffi/types.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** A firewall mark and the bits of it that matter: a packet has it if `(mark & mask) === value`. */
export interface MaskedMark {
  readonly value: Mark;
  readonly mask: number;
}

/** The mask of a mark that was given without one: all 32 bits matter, as `ip` and `iptables` do. */
export const fullMask = 0xffffffff;

const numberForm = /^(0x[0-9a-f]{1,8}|0|[1-9][0-9]{0,9})$/i;
const accepted = `give VALUE or VALUE/MASK, numbers up to 0xffffffff: "0x1/0x1"`;

/** Parses `VALUE` or `VALUE/MASK`, each decimal or hexadecimal with `0x`. */
export function parseMark(text: string): Parsed<MaskedMark> {
  const slash = text.indexOf("/");
  const value = parseNumber(slash < 0 ? text : text.slice(0, slash));
  const mask = slash < 0 ? fullMask : parseNumber(text.slice(slash + 1));
  if (value === undefined || mask === undefined) {
    return refuse(`${quote(text)} is not a mark: ${accepted}`);
  }
  if ((value & ~mask) !== 0) {
    const wider = formatMark({ value: value as Mark, mask: (value | mask) >>> 0 });
    return refuse(
      `${quote(text)} has bits outside its mask, no packet can match it: give "${wider}"`,
    );
  }
  return ok({ value: value as Mark, mask });
}

function parseNumber(text: string): number | undefined {
  const value = Number(text);
  return numberForm.test(text) && value <= fullMask ? value : undefined;
}

/** The text of a mark in hexadecimal: `0x1/0x1`, and without its mask if that is all bits. */
export function formatMark(mark: MaskedMark): string {
  const value = `0x${mark.value.toString(16)}`;
  return mark.mask === fullMask ? value : `${value}/0x${mark.mask.toString(16)}`;
}
