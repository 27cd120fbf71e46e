/**
 * Objects that have native buffers, which live as long as their thread (`ffi/memory.ts`): what one
 * service gives back is for the next one, so that services may come and go.
 */
export class Spares<T> {
  private readonly free: T[] = [];
  private readonly make: () => T;

  constructor(make: () => T) {
    this.make = make;
  }

  /** One that was given back, or a new one. */
  take(): T {
    return this.free.pop() ?? this.make();
  }

  /** Takes one back. Its owner must not use it again. */
  give(spare: T): void {
    this.free.push(spare);
  }
}
