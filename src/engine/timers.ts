/**
 * A hashed timer wheel (Varghese and Lauck, 1987): arming and disarming cost the same few
 * instructions however many timers there are. Pure: the time is handed in, in milliseconds of
 * any monotonic clock.
 */

/** One timer, armed at most once at a time. Made with its owner and reused for life. */
export class Timer {
  deadline = 0;
  /** The wheel's own links; `slot` is -1 while disarmed. */
  slot = -1;
  next: Timer | null = null;
  previous: Timer | null = null;
  readonly fire: (now: number) => void;

  constructor(fire: (now: number) => void) {
    this.fire = fire;
  }
}

const TICK_MS = 16;
const SLOTS = 1024;

export class TimerWheel {
  private readonly slots: (Timer | null)[] = new Array(SLOTS).fill(null);
  private tick: number;
  private armed = 0;
  /** No armed timer is due before this: a lower bound, exact after `delay`. */
  private earliest = Number.POSITIVE_INFINITY;

  constructor(now: number) {
    this.tick = Math.floor(now / TICK_MS);
  }

  /** How many timers are armed. */
  get size(): number {
    return this.armed;
  }

  /** Arms `timer` for `deadline`, or moves it there. A deadline in the past fires next. */
  arm(timer: Timer, deadline: number): void {
    if (timer.slot >= 0) this.unlink(timer);
    timer.deadline = deadline;
    // A timer fires in the first tick that begins at or after its deadline, never early.
    const due = Math.max(Math.ceil(deadline / TICK_MS), this.tick + 1);
    this.link(timer, due % SLOTS);
    if (due * TICK_MS < this.earliest) this.earliest = due * TICK_MS;
  }

  /** Disarms `timer`; nothing happens if it is not armed. */
  disarm(timer: Timer): void {
    if (timer.slot >= 0) this.unlink(timer);
  }

  /** Fires everything that is due at `now`. A timer may arm itself or others meanwhile. */
  advance(now: number): void {
    const target = Math.floor(now / TICK_MS);
    if (now < this.earliest) {
      this.tick = Math.max(this.tick, target);
      return;
    }
    // After a long sleep one turn of the wheel visits every slot.
    let from = this.tick + 1;
    if (target - from >= SLOTS) from = target - SLOTS + 1;
    this.tick = Math.max(this.tick, target);
    this.earliest = 0;
    for (let tick = from; tick <= target; tick++) this.expire(tick % SLOTS, now);
  }

  /** Milliseconds from `now` until `advance` has something to do; -1 if nothing is armed. */
  delay(now: number): number {
    if (this.armed === 0) {
      this.earliest = Number.POSITIVE_INFINITY;
      return -1;
    }
    let tick = Math.max(this.tick + 1, Math.floor(this.earliest / TICK_MS));
    const end = this.tick + SLOTS;
    while (tick < end && this.slots[tick % SLOTS] === null) tick++;
    this.earliest = tick * TICK_MS;
    return Math.max(0, Math.ceil(this.earliest - now));
  }

  private expire(slot: number, now: number): void {
    // Firing may disarm any timer, the next in the list included: so take the slot's list off
    // first, and link back what belongs to a later turn of the wheel.
    let timer = this.slots[slot] as Timer | null;
    const later: Timer[] = [];
    while (timer !== null) {
      this.unlink(timer);
      if (timer.deadline <= now) timer.fire(now);
      else later.push(timer);
      timer = this.slots[slot] as Timer | null;
    }
    for (const kept of later) if (kept.slot < 0) this.link(kept, slot);
  }

  private link(timer: Timer, slot: number): void {
    const head = this.slots[slot] as Timer | null;
    timer.slot = slot;
    timer.previous = null;
    timer.next = head;
    if (head !== null) head.previous = timer;
    this.slots[slot] = timer;
    this.armed++;
  }

  private unlink(timer: Timer): void {
    if (timer.previous === null) this.slots[timer.slot] = timer.next;
    else timer.previous.next = timer.next;
    if (timer.next !== null) timer.next.previous = timer.previous;
    timer.next = null;
    timer.previous = null;
    timer.slot = -1;
    this.armed--;
  }
}
