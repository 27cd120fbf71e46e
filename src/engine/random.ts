const word = new Uint32Array(1);

/** Any 32-bit number, which nobody can guess from others. */
export function randomWord(): number {
  return crypto.getRandomValues(word)[0] as number;
}
