/**
 * Brands: numbers that the type checker keeps apart. They cost nothing at run time and are minted
 * only in `ffi/` and in the parsers of `src/net/`.
 */

declare const brand: unique symbol;
type Brand<Name extends string> = number & { readonly [brand]: Name };

/** An open file descriptor of this process, >= 0. */
export type Fd = Brand<"Fd">;

/** A positive errno value, as in `errno(3)`. */
export type Errno = Brand<"Errno">;

/** A transport port in host byte order, 0 to 65535. */
export type Port = Brand<"Port">;

/** A firewall mark, an unsigned 32-bit number in host byte order. */
export type Mark = Brand<"Mark">;

/** The result of a system call: a value >= 0, or a negated errno. */
export type Result = number;

/** The address of a native buffer, as C sees it. */
export type Address = number;
