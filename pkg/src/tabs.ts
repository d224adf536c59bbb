/**
 * An engine that several tabs share, as one tab sees it: a stand-in for the worker that passes messages on to the tab that
 * has the engine. All tabs wait in line for one Web Lock; who has it is the leader. When that tab closes or crashes the browser
 * gives the lock to the next, every tab sends again what was not answered, and of a text that is made anew what was
 * delivered already is skipped. Principal type: `SharedWorkerLink`.
 *
 * Not a `SharedWorker`: those of Chromium and Safari can start no workers of their own, so the engine would lose its cores
 * there, and Chromium for Android has none at all. This is the same everywhere.
 */
import { abortedError, type WorkerClient, type WorkerLike } from './client.js';
import { modelName } from './download.js';
import { SharedEngine, memberChannel, memberLock, wireError } from './shared-engine.js';
import {
  HANDLER_ID, PROTOCOL_VERSION,
  type FromWorker, type GroupMessage, type MemberMessage, type Outcome, type Reply, type Request, type Requests,
  type ToWorker, type WireError, type WorkerEvent,
} from './protocol.js';
import { LamplightError, type EngineInfo } from './types.js';

/** A request that so many tabs died with may be why they did. */
const MAX_LEADERS = 3;

const NOT_THE_SAME: WireError = {
  code: 'interrupted',
  message: 'the tab that ran the engine is gone, and the next one could not go on with the same text; ask again',
};
const TOO_OFTEN: WireError = {
  code: 'interrupted',
  message: `the request was lost with the tab that ran the engine, ${MAX_LEADERS} times; it is not tried again`,
};

/** A request without an answer. */
interface Call {
  request: Request;
  /** Delivered so far, by whichever leaders. */
  text: string;
  /** How much of it the leader that has it now has said. */
  said: number;
  /** The same of log-probabilities: tokens delivered, and those that this leader has told. */
  tokens: number;
  told: number;
  /** Leaders that have had it. */
  leaders: number;
  aborted: boolean;
}

/** Whether engines can be shared here: not on insecure pages, nor outside of browsers. */
export function canShare(): boolean {
  return typeof BroadcastChannel !== 'undefined' && globalThis.navigator?.locks !== undefined;
}

/** The tabs whose engines are one and the same. */
function groupOf(body: Requests['load']['body']): string {
  const { source, ...settings } = body;
  const model = modelName(source);
  if (model === undefined) {
    throw new LamplightError('invalid-request', 'tabs can share only a model that has a URL', 'shared');
  }
  return `lamplight:engine:${JSON.stringify([PROTOCOL_VERSION, model, settings])}`;
}

/** What a `WorkerClient` takes for its worker. */
export class SharedWorkerLink implements WorkerLike {
  onmessage: WorkerLike['onmessage'] = null;
  onerror: WorkerLike['onerror'] = null;
  onmessageerror: WorkerLike['onmessageerror'] = null;
  /** The engine was loaded again, by another tab perhaps. */
  onreload: ((info: EngineInfo) => void) | null = null;
  readonly #id = crypto.randomUUID();
  readonly #channel: BroadcastChannel;
  readonly #group: BroadcastChannel;
  readonly #calls = new Map<number, Call>();
  /** Ends this tab's place in line and its life as a member. */
  readonly #end = new AbortController();
  /** Whether a leader that hears of this tab would notice its end. */
  #alive = false;
  #leader: string | undefined;
  /** Answered, and sent to every further leader. */
  #loaded: Request | undefined;
  /** The engine could not be loaded again: the next request has it tried once more. */
  #lost = false;

  /** `startWorker` is called if this tab comes to have the engine, and again if that is lost. */
  constructor(body: Requests['load']['body'], startWorker: () => WorkerClient) {
    const group = groupOf(body);
    const { signal } = this.#end;
    this.#channel = memberChannel(group, this.#id);
    this.#channel.onmessage = ({ data }: MessageEvent<MemberMessage>) => this.#receive(data);
    this.#group = new BroadcastChannel(group);
    this.#group.onmessage = ({ data }: MessageEvent<GroupMessage>) => {
      if ('leader' in data && data.leader !== this.#leader) this.#hello();
    };
    const life = navigator.locks.request(memberLock(this.#id), { signal }, () => {
      this.#alive = !signal.aborted;
      this.#hello();
      return this.#alive && new Promise<void>((leave) => signal.addEventListener('abort', () => leave(), { once: true }));
    });
    const lead = navigator.locks.request(group, { signal }, () =>
      !signal.aborted && new Promise<void>((closed) => { new SharedEngine(group, startWorker, closed); }));
    for (const lock of [life, lead]) lock.catch((error: unknown) => this.#lockFailed(error));
  }

  postMessage(message: ToWorker): void {
    if ('start' in message) return this.#say('WorkerLoaded');
    if (!('ProcessInput' in message)) return;
    // A copy is what a worker would have got, and what cannot be copied is refused now.
    const request = structuredClone(message.ProcessInput[1]);
    if (request.type === 'abort') return this.#abort(request as Request<'abort'>);
    // Whatever is sampled must come out the same a second time.
    if (request.type === 'chat' || request.type === 'complete') {
      (request as Request<'complete'>).body.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
    }
    const call: Call = { request, text: '', said: 0, tokens: 0, told: 0, leaders: 0, aborted: false };
    this.#calls.set(request.id, call);
    if (this.#leader === undefined) return;
    if (this.#lost) this.#sendLoad();
    this.#send(call);
  }

  /** Leaves. An engine that others use stays, wherever it is; the last tab's is freed. */
  terminate(): void {
    this.#end.abort();
    this.#group.close();
    this.#channel.close();
  }

  #hello(): void {
    if (this.#alive) this.#group.postMessage({ hello: this.#id } satisfies GroupMessage);
  }

  #receive(message: MemberMessage): void {
    if (typeof message !== 'object') return;
    if ('welcome' in message) this.#welcomed(message.welcome);
    else if ('ProcessOutput' in message) this.#reply(message.ProcessOutput[1]);
  }

  /** A leader, perhaps a new one: it gets everything that was not answered. */
  #welcomed(leader: string): void {
    if (leader === this.#leader) return;
    this.#leader = leader;
    this.#sendLoad();
    for (const call of [...this.#calls.values()]) this.#send(call);
  }

  #sendLoad(): void {
    this.#lost = false;
    if (this.#loaded) this.#channel.postMessage({ ProcessInput: [HANDLER_ID, this.#loaded] } satisfies MemberMessage);
  }

  #send(call: Call): void {
    const { id } = call.request;
    if (call.aborted) return this.#answer(call, { id, type: 'error', error: wireError(abortedError()) });
    call.leaders += 1;
    call.said = call.told = 0;
    if (call.leaders > MAX_LEADERS) this.#answer(call, { id, type: 'error', error: TOO_OFTEN });
    else this.#channel.postMessage({ ProcessInput: [HANDLER_ID, call.request] } satisfies MemberMessage);
  }

  #abort(request: Request<'abort'>): void {
    const call = this.#calls.get(request.body.target);
    if (!call) return;
    call.aborted = true;
    if (this.#leader === undefined) this.#send(call);
    else this.#channel.postMessage({ ProcessInput: [HANDLER_ID, request] } satisfies MemberMessage);
  }

  #reply(reply: Reply): void {
    const call = reply.id === null ? undefined : this.#calls.get(reply.id);
    if (!call) {
      if (reply.id === this.#loaded?.id) this.#reloaded(reply);
    } else if (reply.type !== 'event') {
      if (reply.type === 'result' && call.request.type === 'load') this.#loaded = call.request;
      const isOther = reply.type === 'result' && !((reply.result as Partial<Outcome>)?.text ?? '').startsWith(call.text);
      this.#answer(call, isOther ? { id: call.request.id, type: 'error', error: NOT_THE_SAME } : reply);
    } else if (reply.event.kind === 'text') {
      this.#text(call, reply.event);
    } else {
      this.#say({ ProcessOutput: [HANDLER_ID, reply] });
    }
  }

  /** Passes on what is new of a text; a second leader begins it anew. */
  #text(call: Call, { text, logprobs = [] }: Extract<WorkerEvent, { kind: 'text' }>): void {
    const { id } = call.request;
    const known = call.text.slice(call.said, call.said + text.length);
    call.said += text.length;
    if (!text.startsWith(known)) {
      const abort: Request<'abort'> = { v: PROTOCOL_VERSION, id: 0, type: 'abort', body: { target: id } };
      this.#channel.postMessage({ ProcessInput: [HANDLER_ID, abort] } satisfies MemberMessage);
      return this.#answer(call, { id, type: 'error', error: NOT_THE_SAME });
    }
    const rest = text.slice(known.length);
    const tokens = logprobs.slice(Math.max(call.tokens - call.told, 0));
    call.told += logprobs.length;
    if (rest === '' && tokens.length === 0) return;
    call.text += rest;
    call.tokens += tokens.length;
    const event = { kind: 'text' as const, text: rest, ...(tokens.length > 0 && { logprobs: tokens }) };
    this.#say({ ProcessOutput: [HANDLER_ID, { id, type: 'event', event }] });
  }

  /** The answer of a further leader to the request `load`. */
  #reloaded(reply: Reply): void {
    if (reply.type === 'result') this.onreload?.(reply.result as EngineInfo);
    if (reply.type !== 'error') return;
    this.#lost = true;
    for (const call of [...this.#calls.values()]) this.#answer(call, { ...reply, id: call.request.id });
  }

  #answer(call: Call, reply: Reply): void {
    this.#calls.delete(call.request.id);
    this.#say({ ProcessOutput: [HANDLER_ID, reply] });
  }

  #lockFailed(error: unknown): void {
    if (!this.#end.signal.aborted) this.#say({ failed: `the tabs cannot share an engine here (${String(error)})` });
  }

  #say(data: FromWorker): void {
    queueMicrotask(() => this.onmessage?.({ data } as MessageEvent<FromWorker>));
  }
}
