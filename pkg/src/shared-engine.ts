/**
 * An engine that several tabs share, in the tab that has it: takes the tabs' requests, lets one after the other use the
 * worker, and answers. Principal type: `SharedEngine`. Must not know how a tab goes on when that tab is gone (`tabs.ts` does).
 */
import { abortedError, endSoon, type WorkerClient } from './client.js';
import { loadModel } from './download.js';
import type { GroupMessage, MemberMessage, Reply, Request, RequestType, WireError, WorkerEvent } from './protocol.js';
import { LamplightError, type EngineInfo } from './types.js';

/** Held by a tab for as long as it uses the engine: who gets it from the browser knows that the tab is gone. */
export function memberLock(id: string): string {
  return `lamplight:member:${id}`;
}

/** Where a tab and the one with the engine talk. */
export function memberChannel(group: string, id: string): BroadcastChannel {
  return new BroadcastChannel(`${group}:${id}`);
}

/** What changes the engine under the other tabs' feet. */
const UNSHARED: readonly RequestType[] = ['loadAdapter', 'removeAdapter', 'setAdapters'];

interface Member {
  channel: BroadcastChannel;
  /** Waiting for their turn, oldest first. */
  waiting: Job[];
  /** Its request `load`, unless that was stopped. */
  load: LoadJob | undefined;
}

interface Job {
  member: Member;
  request: Request;
  stop: AbortController;
}
type LoadJob = Job & { request: Request<'load'> };

export class SharedEngine {
  readonly #group: string;
  readonly #id = crypto.randomUUID();
  readonly #channel: BroadcastChannel;
  readonly #startWorker: () => WorkerClient;
  readonly #onClosed: () => void;
  /** Ends the watch over the members. */
  readonly #watch = new AbortController();
  /** In the order of their turns. */
  readonly #members = new Map<string, Member>();
  /** Requests `load` that wait for the model. */
  readonly #loads = new Set<LoadJob>();
  #client: WorkerClient | undefined;
  #loading: { stop: AbortController; done: Promise<EngineInfo> } | undefined;
  #info: EngineInfo | undefined;
  #running: Job | undefined;

  /** For the tabs of `group`; `onClosed` is called when the last one has gone and the engine is freed. */
  constructor(group: string, startWorker: () => WorkerClient, onClosed: () => void) {
    this.#group = group;
    this.#startWorker = startWorker;
    this.#onClosed = onClosed;
    this.#channel = new BroadcastChannel(group);
    this.#channel.onmessage = ({ data }: MessageEvent<GroupMessage>) => {
      if ('hello' in data) this.#join(data.hello);
    };
    this.#channel.postMessage({ leader: this.#id } satisfies GroupMessage);
  }

  #join(id: string): void {
    if (this.#members.has(id)) return;
    const member: Member = { channel: memberChannel(this.#group, id), waiting: [], load: undefined };
    member.channel.onmessage = ({ data }: MessageEvent<MemberMessage>) => {
      if (typeof data === 'object' && 'ProcessInput' in data) this.#receive(member, data.ProcessInput[1]);
    };
    this.#members.set(id, member);
    navigator.locks.request(memberLock(id), { signal: this.#watch.signal }, () => this.#leave(id))
      .catch(() => undefined);
    this.#post(member, { welcome: this.#id });
  }

  /** A tab was closed, crashed, or has no more use for the engine. */
  #leave(id: string): void {
    const member = this.#members.get(id);
    if (!member) return;
    this.#members.delete(id);
    if (member.load) this.#loads.delete(member.load);
    if (this.#running?.member === member) this.#running.stop.abort();
    member.channel.close();
    if (this.#members.size === 0) this.#close();
  }

  #receive(member: Member, request: Request): void {
    const job: Job = { member, request, stop: new AbortController() };
    if (request.type === 'abort') {
      this.#abort(member, (request as Request<'abort'>).body.target);
    } else if (request.type === 'load') {
      member.load = job as LoadJob;
      this.#load(member.load);
    } else if (UNSHARED.includes(request.type)) {
      const message = 'an engine that tabs share takes no adapters, which would change it for all; create one without `shared`';
      this.#fail(job, { code: 'invalid-request', message });
    } else {
      member.waiting.push(job);
      this.#next();
    }
  }

  /** Stops a request of a tab, running or not. */
  #abort(member: Member, target: number): void {
    if (this.#running?.member === member && this.#running.request.id === target) return this.#running.stop.abort();
    const waits = ({ request, member: of }: Job) => of === member && request.id === target;
    const { load } = member;
    const stopsLoad = load !== undefined && this.#loads.has(load) && waits(load);
    const job = stopsLoad ? load : member.waiting.find(waits);
    if (!job) return;
    member.waiting = member.waiting.filter((other) => other !== job);
    if (stopsLoad) {
      this.#loads.delete(load);
      member.load = undefined;
    }
    this.#fail(job, wireError(abortedError()));
    if (this.#loads.size === 0) this.#loading?.stop.abort();
  }

  #load(job: LoadJob): void {
    if (this.#info) {
      const { fileBytes } = this.#info.model;
      const progress = { phase: 'ready' as const, loadedBytes: fileBytes, totalBytes: fileBytes, fraction: 1 };
      this.#reply(job.member, { id: job.request.id, type: 'event', event: { kind: 'progress', progress } });
      return this.#answer(job, this.#info);
    }
    this.#loads.add(job);
    if (this.#loading) return;
    let client: WorkerClient;
    try {
      client = this.#client ??= this.#startWorker();
    } catch (error) {
      return this.#giveUp(wireError(error));
    }
    const stop = new AbortController();
    const onEvent = (event: WorkerEvent) => {
      for (const { member, request } of this.#loads) this.#reply(member, { id: request.id, type: 'event', event });
    };
    const done = loadModel(client, job.request.body, { signal: stop.signal, onEvent });
    const loading = this.#loading = { stop, done };
    done.then(
      (info) => {
        this.#loading = undefined;
        this.#info = info;
        for (const waiting of this.#takeLoads()) this.#answer(waiting, info);
        this.#next();
      },
      (error: unknown) => {
        // Whoever asked again while an abandoned load came to its end gets a new one.
        const asked = loading.stop.signal.aborted ? this.#takeLoads() : [];
        this.#giveUp(wireError(error));
        for (const again of asked) this.#load(again);
      },
    );
  }

  #takeLoads(): LoadJob[] {
    const loads = [...this.#loads];
    this.#loads.clear();
    return loads;
  }

  /** The model could not be loaded: everybody hears it, and the next request `load` begins anew. */
  #giveUp(error: WireError): void {
    this.#loading = undefined;
    this.#client?.close(new LamplightError(error.code, error.message, error.field));
    this.#client = undefined;
    for (const job of this.#takeLoads()) this.#fail(job, error);
    for (const member of this.#members.values()) {
      for (const job of member.waiting.splice(0)) this.#fail(job, error);
    }
  }

  /** Lets the tab whose turn it is use the engine. */
  #next(): void {
    const client = this.#client;
    if (this.#running || !this.#info || !client) return;
    for (const [id, member] of this.#members) {
      const job = member.waiting.shift();
      if (!job) continue;
      // To the end of the line.
      this.#members.delete(id);
      this.#members.set(id, member);
      this.#running = job;
      const { type, body, id: number } = job.request;
      const onEvent = (event: WorkerEvent) => this.#reply(member, { id: number, type: 'event', event });
      client.call(type, body as never, { signal: job.stop.signal, onEvent }).then(
        (result) => this.#answer(job, result),
        (error: unknown) => this.#afterError(job, wireError(error)),
      ).finally(() => {
        this.#running = undefined;
        this.#next();
      });
      return;
    }
  }

  /** The request failed; where the engine went with it, it is loaded again for all tabs, whose requests wait. */
  #afterError(job: Job, error: WireError): void {
    this.#fail(job, error);
    if (error.code !== 'worker-failed' && error.code !== 'gpu-lost') return;
    this.#client?.close(new LamplightError(error.code, error.message));
    this.#client = this.#info = undefined;
    for (const { load } of this.#members.values()) if (load) this.#load(load);
  }

  #answer({ member, request }: Job, result: unknown): void {
    this.#reply(member, { id: request.id, type: 'result', result });
  }

  #fail({ member, request }: Job, error: WireError): void {
    this.#reply(member, { id: request.id, type: 'error', error });
  }

  #reply(member: Member, reply: Reply): void {
    this.#post(member, { ProcessOutput: [0, reply] });
  }

  #post(member: Member, message: MemberMessage): void {
    // A closed channel: the tab has gone while its request ended.
    if ([...this.#members.values()].includes(member)) member.channel.postMessage(message);
  }

  #close(): void {
    this.#channel.close();
    this.#watch.abort();
    const reason = new LamplightError('disposed', 'no tab uses the engine any more');
    if (this.#client && this.#loading) {
      this.#loading.stop.abort();
      return endSoon(this.#client, this.#loading.done, reason, this.#onClosed);
    }
    this.#client?.close(reason);
    this.#onClosed();
  }
}

/** An error as it is sent. */
export function wireError(error: unknown): WireError {
  if (!(error instanceof LamplightError)) return { code: 'internal', message: String(error) };
  const { code, message, field } = error;
  return { code, message, ...(field !== undefined && { field }) };
}
