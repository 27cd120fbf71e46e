/** Waiting for a condition on the main thread, which the Workers leave free. */

const pollMs = 1;

/** The demo was told to stop: every act unwinds. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/**
 * Looks again and again until `look` answers something, and answers that; undefined after
 * `timeoutMs`.
 * @throws Interrupted once `signal` is aborted
 */
export async function waitFor<T>(
  look: () => T | undefined,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<T | undefined> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    if (signal.aborted) throw new Interrupted();
    const found = look();
    if (found !== undefined || performance.now() >= deadline) return found;
    await Bun.sleep(pollMs);
  }
}
