/**
 * The way between the workers of a pool: each leaves what it has of a value, and takes what all others have.
 * Through a SharedArrayBuffer where the page is cross-origin isolated, else through ports from each to each.
 * Rounds of `send` and `receive` take turns. Knows nothing of models.
 */

/** One worker's end. */
export interface Link {
  readonly index: number;
  /** Workers that are linked. */
  readonly count: number;
  /** Called once `receive` has said false and is worth another try. */
  onready: (() => void) | null;
  /** Leaves the own part of the round for all others. */
  send(part: Float32Array): void;
  /** Whether all others' parts of the round are there; throws when one of them is gone. */
  receive(): boolean;
  /** The part of another worker, until the next `send`. */
  part(worker: number): Float32Array;
  /** Tells those that listen of a step, the leader's `seq`th, which it sends them as a message too. */
  announce(step: Step, asked: number): void;
  /** Listens briefly for the step after the `heard`th; null where it comes as a message, or others do before it. */
  listen(heard: number, asked: number): Step | null;
  /** Ends all waiting, now and later, with this reason. */
  close(reason: string): void;
}

/** A step that all workers run; `seq` counts them, from 1. */
export interface Step {
  seq: number;
  tokens: Uint32Array;
  pos: number;
  outputs: number;
  /** Which text it is of. */
  sequence: number;
  longRope: boolean;
}

/** What goes to a worker to make its link of: `ports[i]` leads to worker `i`. */
export interface LinkEnds {
  index: number;
  count: number;
  ports?: (MessagePort | null)[];
  shared?: SharedArrayBuffer;
}

/** A worker that has said nothing for so long, while others wait for it, is gone: no step takes so long. */
const SILENCE_MS = 10_000;
/** How often who waits looks for other messages, such as of the end of a worker. */
const TICK_MS = 250;

export function openLink(ends: LinkEnds): Link {
  return ends.shared === undefined ? new MessageLink(ends) : new SharedLink(ends, ends.shared);
}

/** The ends of `count` links, and what of each must be transferred. */
export function linkEnds(count: number): LinkEnds[] {
  const ends = Array.from({ length: count }, (_, index): LinkEnds => ({ index, count }));
  if (globalThis.crossOriginIsolated) {
    const shared = new SharedArrayBuffer(4 * (CONTROL + 2 * count * PLACE));
    for (const end of ends) end.shared = shared;
    return ends;
  }
  for (const end of ends) end.ports = ends.map(() => null);
  for (const a of ends) {
    for (const b of ends.slice(a.index + 1)) {
      const { port1, port2 } = new MessageChannel();
      a.ports![b.index] = port1;
      b.ports![a.index] = port2;
    }
  }
  return ends;
}

/** Parts as transferred buffers. */
class MessageLink implements Link {
  readonly index: number;
  readonly count: number;
  onready: (() => void) | null = null;
  readonly #ports: (MessagePort | null)[];
  /** Parts that have come and were not taken, of each worker. */
  readonly #inbox: Float32Array[][];
  #parts: (Float32Array | undefined)[] = [];
  #waiting = false;
  #closed: string | null = null;
  /** Looks in a row that saw nothing come. */
  #silent = 0;

  constructor({ index, count, ports }: LinkEnds) {
    this.index = index;
    this.count = count;
    this.#ports = ports ?? [];
    this.#inbox = this.#ports.map(() => []);
    this.#ports.forEach((port, worker) => {
      if (port) port.onmessage = ({ data }) => this.#arrived(worker, data as ArrayBuffer);
    });
    const timer = setInterval(() => {
      if (this.#closed !== null) return clearInterval(timer);
      this.#silent = this.#waiting ? this.#silent + 1 : 0;
      if (this.#silent * TICK_MS > SILENCE_MS) this.close(GONE);
    }, TICK_MS);
  }

  #arrived(worker: number, data: ArrayBuffer): void {
    this.#silent = 0;
    this.#inbox[worker]!.push(new Float32Array(data));
    if (this.#waiting && this.#complete()) this.#wake();
  }

  #complete(): boolean {
    return this.#inbox.every((parts, worker) => worker === this.index || parts.length > 0);
  }

  #wake(): void {
    this.#waiting = false;
    this.onready?.();
  }

  send(part: Float32Array): void {
    for (const port of this.#ports) {
      if (!port) continue;
      const { buffer } = part.slice();
      port.postMessage(buffer, [buffer as ArrayBuffer]);
    }
  }

  receive(): boolean {
    if (this.#closed !== null) throw new Error(this.#closed);
    this.#waiting = !this.#complete();
    if (this.#waiting) return false;
    this.#parts = this.#inbox.map((parts) => parts.shift());
    return true;
  }

  part(worker: number): Float32Array {
    return this.#parts[worker]!;
  }

  announce(): void {}

  listen(): null {
    return null;
  }

  close(reason: string): void {
    this.#closed ??= reason;
    for (const port of this.#ports) port?.close();
    if (this.#waiting) this.#wake();
  }
}

const GONE = 'one of the workers that the model runs on is gone';
/** Elements of a part that are left at a time: those of a prompt's chunk. Longer ones go in several rounds. */
const CAPACITY = 1 << 17;
/** A place: the part's whole length in front, then what is left of it now. */
const PLACE = 16 + CAPACITY;
/** Words of the buffer that tell how far everybody is, each in a cache line of its own. */
const CONTROL = 64;
const LEFT = 0;
const ASLEEP = 16;
const CLOSED = 32;
/** The last step announced: its number, token, position, outputs, which text it is of, whether of a long one, and commands
 * before it. */
const STEP = 48;
/** How long a worker looks before it sleeps: longer than workers on idle cores differ, and than it takes to be woken. */
const SPIN_MS = 0.1;
/** Looks between two looks at the clock. */
const SPINS = 200;
/** How long a worker listens for another step after one: as long as choosing and showing a token can take. */
const LISTEN_MS = 20;
/** Tells the processor that this is a loop that waits; not in all browsers yet. */
const pause: () => void = (Atomics as { pause?: () => void }).pause ?? (() => undefined);

/** Parts in shared memory, in two places each, used in turn: a part is still there for those that are late when its
 * owner leaves the next one. */
class SharedLink implements Link {
  readonly index: number;
  readonly count: number;
  onready: (() => void) | null = null;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  /** Places filled since the beginning. */
  #round = 0;
  /** The part that is being sent; a copy, where it is longer than a place. */
  #own: Float32Array = new Float32Array(0);
  /** Elements that all have left of their parts so far, before what is in the places now. */
  #done = 0;
  #parts: Float32Array[] = [];
  #silent = 0;
  #reason = GONE;

  constructor({ index, count }: LinkEnds, shared: SharedArrayBuffer) {
    this.index = index;
    this.count = count;
    this.#words = new Int32Array(shared);
    this.#floats = new Float32Array(shared);
  }

  /** Where worker `worker` leaves its part in this round. */
  #place(worker: number): number {
    return CONTROL + (2 * worker + (this.#round & 1)) * PLACE;
  }

  #leave(): void {
    this.#round += 1;
    const at = this.#place(this.index);
    this.#words[at] = this.#own.length;
    this.#floats.set(this.#own.subarray(this.#done, this.#done + CAPACITY), at + 16);
    Atomics.add(this.#words, LEFT, 1);
    // Who is about to sleep has counted itself before it looks for the last time.
    if (Atomics.load(this.#words, ASLEEP) > 0) Atomics.notify(this.#words, LEFT);
  }

  send(part: Float32Array): void {
    this.#own = part.length > CAPACITY ? part.slice() : part;
    this.#done = 0;
    this.#leave();
  }

  receive(): boolean {
    for (;;) {
      if (!this.#wait()) return false;
      let longest = this.#own.length;
      for (let worker = 0; worker < this.count; worker++) longest = Math.max(longest, this.#words[this.#place(worker)]!);
      for (let worker = 0; worker < this.count; worker++) {
        if (worker === this.index) continue;
        const at = this.#place(worker);
        const length = this.#words[at]!;
        const left = this.#floats.subarray(at + 16, at + 16 + Math.max(0, Math.min(CAPACITY, length - this.#done)));
        if (longest <= CAPACITY) {
          this.#parts[worker] = left;
        } else {
          if (this.#done === 0) this.#parts[worker] = new Float32Array(length);
          if (left.length > 0) this.#parts[worker]!.set(left, this.#done);
        }
      }
      this.#done += CAPACITY;
      if (longest <= this.#done) return true;
      this.#leave();
    }
  }

  part(worker: number): Float32Array {
    return this.#parts[worker]!;
  }

  /** Waits until all have left what belongs to this round: briefly awake, then asleep, for who only looks takes the core
   * that the others may need. False now and then, so that messages get in. */
  #wait(): boolean {
    const words = this.#words;
    const target = Math.imul(this.#round, this.count);
    const done = () => ((Atomics.load(words, LEFT) - target) | 0) >= 0;
    const start = performance.now();
    do {
      for (let spin = 0; spin < SPINS; spin++) {
        if (done()) {
          this.#silent = 0;
          return true;
        }
        pause();
      }
    } while (performance.now() - start < SPIN_MS);
    const until = start + TICK_MS;
    Atomics.add(words, ASLEEP, 1);
    for (;;) {
      const now = Atomics.load(words, LEFT);
      const rest = until - performance.now();
      if (((now - target) | 0) >= 0 || Atomics.load(words, CLOSED) !== 0 || rest <= 0) break;
      Atomics.wait(words, LEFT, now, rest);
    }
    Atomics.sub(words, ASLEEP, 1);
    if (Atomics.load(words, CLOSED) !== 0) throw new Error(this.#reason);
    if (done()) {
      this.#silent = 0;
      return true;
    }
    this.#silent += 1;
    if (this.#silent * TICK_MS > SILENCE_MS) this.close(GONE);
    setTimeout(() => this.onready?.(), 0);
    return false;
  }

  announce({ seq, tokens, pos, outputs, sequence, longRope }: Step, asked: number): void {
    const words = this.#words;
    // Longer steps can wait for their message.
    words.set([tokens.length === 1 ? tokens[0]! : -1, pos, outputs, sequence, Number(longRope), asked], STEP + 1);
    Atomics.store(words, STEP, seq);
    Atomics.notify(words, STEP);
  }

  listen(heard: number, asked: number): Step | null {
    const words = this.#words;
    Atomics.wait(words, STEP, heard, LISTEN_MS);
    const seq = Atomics.load(words, STEP);
    const [token, pos, outputs, sequence, longRope, before] = words.subarray(STEP + 1);
    if (seq !== heard + 1 || token === -1 || before !== asked) return null;
    return { seq, tokens: Uint32Array.of(token!), pos: pos!, outputs: outputs!, sequence: sequence!, longRope: longRope !== 0 };
  }

  close(reason: string): void {
    this.#reason = reason;
    Atomics.store(this.#words, CLOSED, 1);
    Atomics.notify(this.#words, LEFT);
  }
}
