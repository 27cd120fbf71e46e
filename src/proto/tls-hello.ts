/**
 * The first messages of a TLS handshake (RFC 8446, RFC 5246): a ClientHello that servers of TLS 1.2
 * and 1.3 answer with a ServerHello. No key is kept: the handshake goes no further. Pure.
 */

const HANDSHAKE = 22;
const ALERT = 21;
const CLIENT_HELLO = 1;
const SERVER_HELLO = 2;

/** TLS 1.3, then ECDHE with AES-GCM or ChaCha20 of TLS 1.2, then RSA. */
const cipherSuites = [
  0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0x009c, 0x009d, 0x002f,
];
const signatures = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601, 0x0807];
/** x25519, secp256r1, secp384r1. */
const groups = [0x001d, 0x0017, 0x0018];

const extension = {
  serverName: 0,
  groups: 10,
  pointFormats: 11,
  signatures: 13,
  versions: 43,
  pskModes: 45,
  keyShare: 51,
} as const;

/**
 * A record with a ClientHello for `serverName`, empty for none. `random` has 96 bytes: the random
 * of the hello, a session id and a public key of x25519, for which any bytes do.
 */
export function encodeClientHello(serverName: string, random: Uint8Array): Uint8Array {
  const [nonce, session, key] = [0, 32, 64].map((at) => [...random.subarray(at, at + 32)]);
  const name = [...new TextEncoder().encode(serverName)];
  const extensions = [
    ...(name.length === 0 ? [] : extend(extension.serverName, sized(2, [0, ...sized(2, name)]))),
    ...extend(extension.groups, sized(2, groups.flatMap(word))),
    ...extend(extension.pointFormats, sized(1, [0])),
    ...extend(extension.signatures, sized(2, signatures.flatMap(word))),
    ...extend(extension.versions, sized(1, [0x0304, 0x0303].flatMap(word))),
    ...extend(extension.pskModes, sized(1, [1])),
    ...extend(extension.keyShare, sized(2, [...word(0x001d), ...sized(2, key ?? [])])),
  ];
  const hello = [
    ...word(0x0303),
    ...(nonce ?? []),
    ...sized(1, session ?? []),
    ...sized(2, cipherSuites.flatMap(word)),
    ...sized(1, [0]),
    ...sized(2, extensions),
  ];
  const message = [CLIENT_HELLO, ...sized(3, hello)];
  return Uint8Array.from([HANDSHAKE, ...word(0x0301), ...sized(2, message)]);
}

/** What a server's first bytes are. */
export type ServerAnswer =
  | { readonly kind: "more" }
  | { readonly kind: "hello" }
  /** RFC 8446, 6: 40 is handshake_failure, 112 unrecognized_name. */
  | { readonly kind: "alert"; readonly code: number }
  | { readonly kind: "other" };

/** Reads what a server has answered so far. */
export function readServerAnswer(bytes: Uint8Array): ServerAnswer {
  const [type, major, , , , first, second] = bytes;
  if (type === undefined) return { kind: "more" };
  if ((type !== HANDSHAKE && type !== ALERT) || (major !== undefined && major !== 3)) {
    return { kind: "other" };
  }
  if (type === ALERT) {
    return second === undefined ? { kind: "more" } : { kind: "alert", code: second };
  }
  if (first === undefined) return { kind: "more" };
  return { kind: first === SERVER_HELLO ? "hello" : "other" };
}

function word(value: number): number[] {
  return [value >> 8, value & 0xff];
}

/** Bytes behind their number, which takes so many bytes. */
function sized(lengthBytes: number, bytes: readonly number[]): number[] {
  const length = Array.from({ length: lengthBytes }, (_, i) => {
    return (bytes.length >> (8 * (lengthBytes - 1 - i))) & 0xff;
  });
  return [...length, ...bytes];
}

function extend(type: number, bytes: readonly number[]): number[] {
  return [...word(type), ...sized(2, bytes)];
}
