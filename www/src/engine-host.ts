/**
 * The engine's life in the page: one load at a time, one engine at a time. Fires `change` on every step.
 * Must not know how any of it looks.
 */
import { createEngine, type BackendChoice, type Engine, type ModelSource, type Progress } from 'lamplight';
import { isAbort } from './errors';

/** What the user asked to load. */
export interface LoadRequest {
  /** Shown while nothing else is known: a model's or a file's name. */
  label: string;
  model: Exclude<ModelSource, URL>;
  backend: BackendChoice;
  /** Size of the file, when it is known before the download. */
  bytes?: number | undefined;
}

export type HostState =
  | { kind: 'idle'; note?: string }
  | { kind: 'loading'; request: LoadRequest; progress: Progress | undefined; startedAt: number }
  | { kind: 'ready'; request: LoadRequest; engine: Engine }
  | { kind: 'failed'; request: LoadRequest; error: unknown };

export class EngineHost extends EventTarget {
  #state: HostState = { kind: 'idle' };
  #abort: AbortController | undefined;
  /** Rises with every load and unload: whatever belongs to an older one is ignored. */
  #generation = 0;

  get state(): HostState {
    return this.#state;
  }

  get engine(): Engine | undefined {
    return this.#state.kind === 'ready' ? this.#state.engine : undefined;
  }

  /** Unloads what is loaded and loads this. Never rejects: failures become the state `failed`. */
  async load(request: LoadRequest): Promise<void> {
    const generation = await this.#retire();
    if (generation !== this.#generation) return;
    const abort = new AbortController();
    this.#abort = abort;
    const startedAt = performance.now();
    this.#set({ kind: 'loading', request, progress: undefined, startedAt });
    try {
      const engine = await createEngine({
        model: request.model,
        backend: request.backend,
        signal: abort.signal,
        // Two tabs with the same model need it in memory once.
        shared: typeof request.model === 'string',
        onProgress: (progress) => {
          if (generation === this.#generation) this.#set({ kind: 'loading', request, progress, startedAt });
        },
      });
      if (generation === this.#generation) this.#set({ kind: 'ready', request, engine });
      else await engine.dispose();
    } catch (error) {
      if (generation !== this.#generation) return;
      if (isAbort(error)) this.#set({ kind: 'idle', note: 'Loading was cancelled. What is already stored is kept: the next load goes on from there.' });
      else this.#set({ kind: 'failed', request, error });
    }
  }

  /** Stops a running load. */
  cancel(): void {
    this.#abort?.abort();
  }

  /** Frees the memory of the loaded model. */
  async unload(): Promise<void> {
    const generation = await this.#retire();
    if (generation === this.#generation) this.#set({ kind: 'idle' });
  }

  /** Ends the current load or engine and opens a new generation. */
  async #retire(): Promise<number> {
    this.#generation += 1;
    const generation = this.#generation;
    const { engine } = this;
    this.#abort?.abort();
    if (engine) {
      this.#set({ kind: 'idle' });
      await engine.dispose().catch(() => {
        // The worker may be gone already; its memory went with it.
      });
    }
    return generation;
  }

  #set(state: HostState): void {
    this.#state = state;
    this.dispatchEvent(new Event('change'));
  }
}
