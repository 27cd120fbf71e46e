/**
 * Keeps objects with native buffers, which live as long as their thread (`ffi/memory.ts`). The next
 * service reuses what an ended service has returned.
 */
export class Spares<T> {
  private readonly free: T[] = [];
  private readonly make: () => T;

  constructor(make: () => T) {
    this.make = make;
  }

  /** Returns a spare object, or a new one. */
  take(): T {
    return this.free.pop() ?? this.make();
  }

  /** Returns an object to the spares. The caller must not use it again. */
  give(spare: T): void {
    this.free.push(spare);
  }
}
