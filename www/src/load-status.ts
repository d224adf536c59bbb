/** One progress bar for the whole load, with phase, speed, time left and a cancel button; or the error that ended it. */
import type { LamplightErrorCode, Progress } from 'lamplight';
import { fill, h, uniqueId } from './dom';
import type { HostState, LoadRequest } from './engine-host';
import { errorCard } from './error-card';
import { explain } from './errors';
import { bytes, duration } from './format';

const PHASES: Record<Progress['phase'], string> = {
  'starting': 'Starting the engine',
  'waiting': 'Another tab downloads this model',
  'header': 'Reading the model’s header',
  'downloading': 'Downloading weights',
  'reading-cache': 'Reading stored weights',
  'checking': 'Checking the backend',
  'ready': 'Ready',
};

/** Failures that the CPU does not share. */
const GPU_ERRORS = new Set<LamplightErrorCode>(['gpu-unavailable', 'gpu-lost', 'gpu-check-failed', 'out-of-memory', 'internal']);

export class LoadStatus {
  readonly root = h('section', { class: 'load-status', hidden: true, attrs: { 'aria-label': 'Loading' } });
  readonly #load: (request: LoadRequest) => void;
  readonly #title = h('p', { class: 'load-title' });
  readonly #percent = h('span', { class: 'load-percent' });
  readonly #bar: HTMLProgressElement;
  readonly #phase = h('span', { class: 'load-phase' });
  readonly #numbers = h('span', { class: 'load-numbers' });
  readonly #card: HTMLElement;

  constructor(load: (request: LoadRequest) => void, cancel: () => void) {
    this.#load = load;
    this.#title.id = uniqueId('load-title');
    this.#bar = h('progress', { max: 1, attrs: { 'aria-labelledby': this.#title.id } });
    this.#card = h('div', { class: 'load-card' },
      h('div', { class: 'load-head' }, this.#title, this.#percent),
      this.#bar,
      h('div', { class: 'load-foot' },
        h('span', { class: 'load-facts' }, this.#phase, this.#numbers),
        h('button', { type: 'button', class: 'button small', on: { click: cancel }, attrs: { 'data-cancel-load': true } }, 'Cancel')));
  }

  show(state: HostState): void {
    this.root.hidden = state.kind === 'ready' || (state.kind === 'idle' && !state.note);
    if (state.kind === 'loading') this.#showProgress(state);
    else if (state.kind === 'failed') this.#showError(state);
    else if (state.kind === 'idle') fill(this.root, h('p', { class: 'note' }, state.note));
    else fill(this.root);
  }

  #showProgress({ request, progress, startedAt }: Extract<HostState, { kind: 'loading' }>): void {
    // The card stays in place between two reports, so that its button keeps the focus.
    if (this.#card.parentNode !== this.root) fill(this.root, this.#card);
    this.#title.textContent = `Loading ${request.label}`;
    if (!progress) {
      this.#bar.removeAttribute('value');
      fill(this.#percent);
      this.#phase.textContent = PHASES.starting;
      this.#numbers.textContent = '';
      return;
    }
    this.#bar.value = progress.fraction;
    this.#percent.textContent = `${Math.floor(progress.fraction * 100)} %`;
    this.#phase.textContent = PHASES[progress.phase];
    this.#numbers.textContent = numbers(progress, performance.now() - startedAt);
  }

  #showError({ request, error }: Extract<HostState, { kind: 'failed' }>): void {
    const again = h('button', { type: 'button', class: 'button', on: { click: () => this.#load(request) } }, 'Try again');
    const actions = [again];
    if (request.backend !== 'cpu' && GPU_ERRORS.has(explain(error).code)) {
      actions.push(h('button', {
        type: 'button',
        class: 'button',
        on: { click: () => this.#load({ ...request, backend: 'cpu' }) },
      }, 'Load on the CPU'));
    }
    fill(this.root, errorCard(error, ...actions));
  }
}

function numbers(progress: Progress, elapsed: number): string {
  const parts: string[] = [];
  if (progress.totalBytes > 0) parts.push(`${bytes(progress.loadedBytes)} of ${bytes(progress.totalBytes)}`);
  if (progress.bytesPerSecond) parts.push(`${bytes(progress.bytesPerSecond)}/s`);
  if (progress.etaSeconds !== undefined && progress.etaSeconds >= 1) parts.push(`${duration(progress.etaSeconds * 1000)} left`);
  else if (parts.length === 0 && elapsed > 2000) parts.push(duration(elapsed));
  return parts.join(' · ');
}
