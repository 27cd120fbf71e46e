/** Counts down to the end of a task that serves only so many: `listen --max`. */
export class Quota {
  private left: number;
  private readonly onSpent: () => void;

  /** `max` 0 has no end. `onSpent` is called once, when the last one has been taken. */
  constructor(max: number, onSpent: () => void) {
    this.left = max;
    this.onSpent = onSpent;
  }

  /** One connection or datagram was taken. */
  spend(): void {
    if (this.left === 0) return;
    this.left--;
    if (this.left === 0) this.onSpent();
  }
}
