/**
 * Lists of members in the order of their last use. A member is in one list at most, and every call
 * takes the same time however long the lists are. Nothing is allocated after the constructor. Pure.
 */

export class UseOrder {
  private readonly members: number;
  /** Circles, from and to a head behind the members: next is used less recently. */
  private readonly next: Int32Array;
  private readonly previous: Int32Array;

  /** For members with numbers below `members`, in lists with numbers below `lists`. */
  constructor(members: number, lists: number) {
    this.members = members;
    this.next = new Int32Array(members + lists);
    this.previous = new Int32Array(members + lists);
  }

  /** Makes a list an empty one; each list needs that before its first use. */
  clear(list: number): void {
    const head = this.members + list;
    this.next[head] = head;
    this.previous[head] = head;
  }

  /** The member of a list that was used least recently, -1 for none. */
  oldest(list: number): number {
    return this.orNone(this.previous[this.members + list] as number);
  }

  /** The member of the same list that was used next after `member`, -1 for none. */
  newer(member: number): number {
    return this.orNone(this.previous[member] as number);
  }

  /** Puts `member`, which is in no list, into this one, as the most recently used. */
  add(member: number, list: number): void {
    const { next, previous } = this;
    const head = this.members + list;
    const first = next[head] as number;
    next[head] = member;
    previous[member] = head;
    next[member] = first;
    previous[first] = member;
  }

  /** Takes `member` from its list. */
  remove(member: number): void {
    const { next, previous } = this;
    const before = previous[member] as number;
    const after = next[member] as number;
    next[before] = after;
    previous[after] = before;
  }

  /** Makes `member`, from whatever list, the most recently used of this one. */
  use(member: number, list: number): void {
    if (this.next[this.members + list] === member) return;
    this.remove(member);
    this.add(member, list);
  }

  private orNone(member: number): number {
    return member < this.members ? member : -1;
  }
}
