/** Counts down the connections and datagrams of `listen --max`. */
export class Quota {
  private left: number;
  private readonly onSpent: () => void;

  /** A `max` of 0 is no limit. `onSpent` is called once, when the last one has been received. */
  constructor(max: number, onSpent: () => void) {
    this.left = max;
    this.onSpent = onSpent;
  }

  /** Counts one connection or datagram. */
  spend(): void {
    if (this.left === 0) return;
    this.left--;
    if (this.left === 0) this.onSpent();
  }
}
