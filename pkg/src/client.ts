/**
 * The page's end of the worker: starts it, numbers requests, and settles each with its result or error.
 * Knows messages and nothing of models; holds no wasm.
 */
import {
  HANDLER_ID, PROTOCOL_VERSION,
  type FromWorker, type Reply, type Request, type RequestType, type Requests, type ToWorker, type WorkerEvent,
} from './protocol.js';
import { LamplightError, type AssetOptions, type EngineOptions } from './types.js';

/** The part of `Worker` that the client uses, so that tests can stand in for it. */
export interface WorkerLike {
  postMessage(message: ToWorker): void;
  terminate(): void;
  onmessage: ((event: MessageEvent<FromWorker>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
  onmessageerror: ((event: MessageEvent) => void) | null;
}

interface Pending {
  resolve: (result: never) => void;
  reject: (error: LamplightError) => void;
  onEvent: ((event: WorkerEvent) => void) | undefined;
  removeAbort: () => void;
}

export interface CallOptions {
  signal?: AbortSignal | undefined;
  onEvent?: (event: WorkerEvent) => void;
}

/** The error for a call that its own signal stopped; the signal's reason is its `cause`. */
export function abortedError(signal?: AbortSignal): LamplightError {
  const error = new LamplightError('aborted', 'the call was aborted by its signal');
  error.cause = signal?.reason;
  return error;
}

/** Starts a worker. Kept apart and literal: bundlers find `worker.js` by this very expression. */
function startWorker(options: AssetOptions): WorkerLike {
  if (typeof Worker === 'undefined') {
    throw new LamplightError('worker-failed', 'there are no web workers here; Lamplight runs in a browser page');
  }
  try {
    const worker = options.workerUrl === undefined
      ? new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
      // As it is: turning a TrustedScriptURL into a string would take its trust away.
      : new Worker(options.workerUrl as string, { type: 'module' });
    return worker as WorkerLike;
  } catch (cause) {
    const error = new LamplightError(
      'worker-failed',
      `the worker could not be started (${String(cause)}); worker.js must be of the page's own origin and allowed by its `
        + 'Content-Security-Policy (worker-src, and a TrustedScriptURL under Trusted Types); see the option workerUrl',
    );
    error.cause = cause;
    throw error;
  }
}

/** One worker and all calls to it. */
export class WorkerClient {
  readonly #worker: WorkerLike;
  /** Told when a model goes on on another number of workers. */
  onthreads: ((threads: number) => void) | undefined;
  readonly #pending = new Map<number, Pending>();
  /** Requests made before the actor was there. */
  #waiting: Request[] | null = [];
  #nextId = 1;
  /** Set once the worker is gone; every later call fails with it. */
  #dead: LamplightError | null = null;

  readonly #resolveUrl: EngineOptions['resolveUrl'];

  constructor(options: AssetOptions & Pick<EngineOptions, 'resolveUrl'> = {}, worker: WorkerLike = startWorker(options)) {
    this.#resolveUrl = options.resolveUrl;
    this.#worker = worker;
    worker.onmessage = (event) => this.#receive(event.data);
    worker.onerror = (event) => {
      // The browser would print it a second time as an error of the page.
      event.preventDefault?.();
      const detail = event.message
        || 'worker.js or the code it imports could not be loaded; see the options workerUrl and wasmUrl';
      this.close(new LamplightError('worker-failed', `the worker failed: ${detail}`));
    };
    worker.onmessageerror = () => {
      this.close(new LamplightError('worker-failed', 'a message of the worker could not be read'));
    };
    const wasmUrl = options.wasmUrl === undefined ? undefined : absolute(options.wasmUrl);
    worker.postMessage({ start: wasmUrl === undefined ? {} : { wasmUrl } });
  }

  /** Calls that have not been answered yet. */
  get pendingCalls(): number {
    return this.#pending.size;
  }

  /** Sends a request; the promise settles with its answer, or at once when `signal` fires. */
  call<T extends RequestType>(
    type: T, body: Requests[T]['body'], options: CallOptions = {},
  ): Promise<Requests[T]['result']> {
    const { signal, onEvent } = options;
    if (this.#dead) return Promise.reject(this.#dead);
    if (signal?.aborted) return Promise.reject(abortedError(signal));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const onAbort = () => this.abort(id);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pending.set(id, {
        resolve,
        reject: (error) => {
          if (error.code === 'aborted' && signal?.aborted) error.cause = signal.reason;
          reject(error);
        },
        onEvent,
        removeAbort: () => signal?.removeEventListener('abort', onAbort),
      });
      this.#send({ v: PROTOCOL_VERSION, id, type, body });
    });
  }

  /** Asks the worker to stop a request; its own answer then says how it ended. */
  abort(id: number): void {
    if (!this.#pending.has(id)) return;
    this.#send({ v: PROTOCOL_VERSION, id: this.#nextId++, type: 'abort', body: { target: id } });
  }

  /** Ends the worker; what is still running, and every later call, rejects with `error`. */
  close(error: LamplightError): void {
    if (this.#dead) return;
    this.#dead = error;
    this.#worker.terminate();
    this.#worker.onmessage = this.#worker.onerror = this.#worker.onmessageerror = null;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of pending) {
      call.removeAbort();
      call.reject(error);
    }
  }

  #send(request: Request): void {
    if (this.#waiting) {
      this.#waiting.push(request);
      return;
    }
    try {
      this.#worker.postMessage({ ProcessInput: [HANDLER_ID, request] });
    } catch (cause) {
      // What the caller passed in cannot be copied to the worker (a function, a DOM node).
      const error = new LamplightError('invalid-request', `an argument cannot be sent to the worker: ${String(cause)}`);
      error.cause = cause;
      this.#settle(request.id)?.reject(error);
    }
  }

  /** Has the app name another address for one that its server refuses: signed links run out. */
  async #resolve({ ask, url, status }: Extract<WorkerEvent, { kind: 'resolve' }>): Promise<void> {
    let answer: Requests['resolved']['body'];
    try {
      const other = await this.#resolveUrl?.(url, { status });
      answer = other ? { ask, url: absolute(other) } : { ask, error: 'it returned none' };
    } catch (error) {
      answer = { ask, error: error instanceof Error ? error.message : String(error) };
    }
    // The worker may have gone in the meantime.
    await this.call('resolved', answer).catch(() => undefined);
  }

  #settle(id: number): Pending | undefined {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    call?.removeAbort();
    return call;
  }

  #receive(message: FromWorker): void {
    if (message === 'WorkerLoaded') {
      const waiting = this.#waiting ?? [];
      this.#waiting = null;
      this.#worker.postMessage({ Connected: HANDLER_ID });
      for (const request of waiting) this.#send(request);
    } else if ('ProcessOutput' in message) {
      this.#reply(message.ProcessOutput[1]);
    } else if ('failed' in message) {
      this.close(new LamplightError('worker-failed', message.failed));
    }
  }

  #reply(reply: Reply): void {
    if (reply.id === null) {
      // Only a bug of ours makes a request without a number; nobody in particular waits for this answer.
      if (reply.type === 'error') console.error('lamplight:', reply.error.message);
      return;
    }
    if (reply.type === 'event') {
      if (reply.event.kind === 'resolve') void this.#resolve(reply.event);
      else if (reply.event.kind === 'threads') this.onthreads?.(reply.event.threads);
      else this.#pending.get(reply.id)?.onEvent?.(reply.event);
    } else if (reply.type === 'result') {
      this.#settle(reply.id)?.resolve(reply.result as never);
    } else {
      const { code, message, field } = reply.error;
      this.#settle(reply.id)?.reject(new LamplightError(code, message, field));
    }
  }
}

/** How long an aborted worker may take to store the parts that it has whole. */
const LAST_WORDS_MS = 3000;

/** Ends an aborted load's worker: the caller does not wait for it, but parts that were received are not thrown away. */
export function endSoon(
  client: WorkerClient, loaded: Promise<unknown>, reason: LamplightError, onClosed?: () => void,
): void {
  const close = () => {
    client.close(reason);
    onClosed?.();
  };
  const timer = setTimeout(close, LAST_WORDS_MS);
  loaded.catch(() => undefined).then(() => {
    clearTimeout(timer);
    close();
  });
}

/** The same address from the worker's point of view, whose relative URLs start elsewhere. */
export function absolute(url: string | URL): string {
  const base = typeof document === 'undefined' ? globalThis.location?.href : document.baseURI;
  try {
    return new URL(url, base).href;
  } catch (cause) {
    const error = new LamplightError('invalid-request', `${String(url)} is not a URL`);
    error.cause = cause;
    throw error;
  }
}

/** An address without query and fragment: what it is called in storage. */
export function withoutQuery(url: string): string {
  return url.replace(/[?#].*$/, '');
}
