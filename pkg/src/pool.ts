/**
 * A pool of workers that share nothing: the one that the page started leads, starts the others from its own script, tells
 * them what to do, and is linked with each of them. Runs in workers only; what the workers do is the wasm core's matter.
 *
 * The others are plain workers: gloo's actors have no transfer lists, and a link's ports and buffers must be transferred.
 */
import { linkEnds, openLink, type Link, type LinkEnds, type Step } from './link.js';

/** What the leader sends when a worker starts. */
export interface StartShard {
  /** The core, compiled once for all. */
  module: WebAssembly.Module;
  link: LinkEnds;
}

/** Leader to worker; `id` where an answer is wanted. */
type Command = { id?: number; type: string; body: unknown };
/** Worker to leader. */
type Answer = { id: number; result: unknown } | { id: number; error: unknown } | { failed: string };

interface Asked {
  results: unknown[];
  missing: number;
  resolve: (results: unknown[]) => void;
  reject: (error: unknown) => void;
}

/** The leader's view of the others. */
export class Team {
  readonly link: Link;
  /** How parts of values travel. */
  readonly exchange: 'shared' | 'messages';
  /** Why the pool is of no further use, once it is not. */
  failure: string | undefined;
  readonly #workers: Worker[];
  readonly #asked = new Map<number, Asked>();
  #nextId = 1;
  /** Steps that the others were told. */
  #steps = 0;

  /** Starts `count - 1` workers; resolves once all of them are ready. */
  static async start(count: number, module: WebAssembly.Module): Promise<Team> {
    const ends = linkEnds(count);
    const workers: Worker[] = [];
    try {
      for (let index = 1; index < count; index++) {
        // The script that runs here, wherever a bundler has put it.
        workers.push(new Worker(globalThis.location.href, { type: 'module', name: `lamplight shard ${index}` }));
      }
    } catch (error) {
      workers.forEach((worker) => worker.terminate());
      throw error;
    }
    const team = new Team(ends[0]!, workers);
    workers.forEach((worker, index) => {
      const link = ends[index + 1]!;
      const start: StartShard = { module, link };
      worker.postMessage({ startShard: start }, (link.ports ?? []).filter((port) => port !== null));
    });
    try {
      await team.ask('ready', null);
    } catch (error) {
      team.end();
      throw error;
    }
    return team;
  }

  private constructor(ends: LinkEnds, workers: Worker[]) {
    this.link = openLink(ends);
    this.exchange = ends.shared === undefined ? 'messages' : 'shared';
    this.#workers = workers;
    workers.forEach((worker, index) => {
      worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#receive(index, data);
      worker.onmessageerror = () => this.fail('a message of a worker could not be read');
      worker.onerror = (event) => {
        event.preventDefault?.();
        this.fail(`one of the workers that the model runs on failed: ${event.message || 'it could not be started'}`);
      };
    });
  }

  /** Asks all others; their answers, in their order. */
  ask(type: string, body: unknown): Promise<unknown[]> {
    const id = this.#nextId++;
    const answers = new Promise<unknown[]>((resolve, reject) => {
      if (this.failure !== undefined) reject(new Error(this.failure));
      else this.#asked.set(id, { results: [], missing: this.#workers.length, resolve, reject });
    });
    // Who asks may be gone before the answer.
    answers.catch(() => undefined);
    for (const worker of this.#workers) worker.postMessage({ id, type, body } satisfies Command);
    return answers;
  }

  /** Has the others run a step. */
  step(tokens: Uint32Array, pos: number, outputs: number, sequence: number, longRope: boolean): void {
    if (this.failure !== undefined) throw new Error(this.failure);
    const body: Step = { seq: ++this.#steps, tokens: tokens.slice(), pos, outputs, sequence, longRope };
    this.link.announce(body, this.#nextId);
    for (const worker of this.#workers) worker.postMessage({ type: 'step', body } satisfies Command);
  }

  #receive(index: number, answer: Answer): void {
    if ('failed' in answer) return this.fail(answer.failed);
    const asked = this.#asked.get(answer.id);
    if (!asked) return;
    if ('error' in answer) {
      this.#asked.delete(answer.id);
      asked.reject(answer.error);
      return;
    }
    asked.results[index] = answer.result;
    asked.missing -= 1;
    if (asked.missing > 0) return;
    this.#asked.delete(answer.id);
    asked.resolve(asked.results);
  }

  /** Nothing more will come of this pool. */
  fail(reason: string): void {
    this.failure ??= reason;
    this.link.close(this.failure);
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const { reject } of asked) reject(new Error(this.failure));
  }

  /** Ends all others. */
  end(): void {
    this.fail('the pool was ended');
    for (const worker of this.#workers) {
      worker.onmessage = worker.onerror = worker.onmessageerror = null;
      worker.terminate();
    }
  }
}

/** A part of a model's files; `blob` is a reference, and each worker reads its own rows from it. */
interface Part {
  file: number;
  start: number;
  end: number;
  blob: Blob;
}

/** The wasm core of a worker that is not the leader. */
type Serve = (type: string, body: unknown, shard: Shard) => Promise<unknown>;

/** A worker that is not the leader. */
export class Shard {
  readonly link: Link;
  /** Parts that the leader has announced, and who waits for one. */
  readonly #parts: { part: Part | null; resolve: (result: null) => void; reject: (error: unknown) => void }[] = [];
  #waiting: (() => void) | null = null;
  /** Tells the leader that the last part was read. */
  #taken: (() => void) | null = null;
  #failed: { error: unknown } | null = null;
  /** The last command: they run one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  /** The number that the leader's next question will have, as far as is known here. */
  #nextId = 1;
  /** Steps that were run. */
  #steps = 0;
  readonly #post: (answer: Answer) => void;

  constructor(ends: LinkEnds, post: (answer: Answer) => void) {
    this.link = openLink(ends);
    this.#post = post;
  }

  /** Takes commands from now on. */
  receive(serve: Serve, { id, type, body }: Command): void {
    if (id !== undefined) this.#nextId = id + 1;
    const run = (): Promise<unknown> => {
      if (type === 'ready') return Promise.resolve(null);
      if (type === 'step') return this.#run(serve, body as Step);
      if (type !== 'part') return serve(type, body, this);
      return new Promise<null>((resolve, reject) => {
        if (this.#failed) return reject(this.#failed.error);
        this.#parts.push({ part: body as Part | null, resolve, reject });
        this.#waiting?.();
      });
    };
    // Parts come while the load runs.
    const done = type === 'part' ? run() : this.#last.then(run);
    if (type !== 'part') this.#last = done.catch(() => undefined);
    done.then(
      (result) => {
        if (id !== undefined) this.#post({ id, result });
      },
      (error: unknown) => {
        if (type === 'load') this.#refuse(error);
        if (id !== undefined) this.#post({ id, error: plain(error) });
        else this.#post({ failed: `a step failed: ${plain(error).message}` });
      },
    );
  }

  /** Runs a step, and those that follow it so soon that the leader's messages come behind them. */
  async #run(serve: Serve, step: Step): Promise<void> {
    for (let next: Step | null = step.seq > this.#steps ? step : null; next; next = this.link.listen(this.#steps, this.#nextId)) {
      this.#steps = next.seq;
      await serve('step', next, this);
    }
  }

  /** The next part, or null after the last one. The one before has been read then. */
  async next(): Promise<Part | null> {
    this.#taken?.();
    this.#taken = null;
    if (this.#parts.length === 0) await new Promise<void>((resolve) => (this.#waiting = resolve));
    this.#waiting = null;
    const { part, resolve } = this.#parts.shift()!;
    this.#taken = () => resolve(null);
    if (part === null) this.#taken();
    return part;
  }

  /** The load has failed: so does every part. */
  #refuse(error: unknown): void {
    this.#failed = { error };
    this.#taken?.();
    for (const { reject } of this.#parts.splice(0)) reject(error);
  }
}

/** What can be sent of an error; those of the core are plain objects with a code already. */
function plain(error: unknown): { code?: unknown; message: string; field?: unknown } {
  if (typeof error !== 'object' || error === null) return { message: String(error) };
  const { code, message, field } = error as { code?: unknown; message?: unknown; field?: unknown };
  return { code, message: String(message), field };
}
