/** The page before the first message: what this is, the model to load, and, once it is loaded, prompts to try. */
import { backendName } from './device-panel';
import { fill, h, icon } from './dom';
import type { HostState } from './engine-host';
import type { ModelChooser } from './model-source';

const PROMPTS = [
  { title: 'Explain a thing', prompt: 'Why is the sky blue? Explain it in three sentences.' },
  { title: 'Write a little', prompt: 'Write a short poem about a lamp in a window.' },
  { title: 'Make a list', prompt: 'Give me five ideas for a rainy Sunday as a numbered list.' },
  { title: 'Show some code', prompt: 'Write a Python function that reverses a string, and explain it.' },
];

export class Welcome {
  readonly root = h('section', { class: 'welcome', attrs: { 'aria-label': 'Welcome' } });
  /** Where the load's progress is shown while there is no conversation. */
  readonly statusSlot = h('div', { class: 'status-slot' });
  readonly #lead = h('p', { class: 'lead' });
  readonly #title = h('h2', {});
  readonly #start: HTMLElement;
  readonly #prompts: HTMLElement;
  readonly #device = h('p', { class: 'device-line' });

  constructor(backendSwitch: HTMLElement, chooser: ModelChooser, send: (prompt: string) => void, showDevice: () => void) {
    this.#start = h('div', { class: 'start' }, chooser.root, backendSwitch);
    this.#prompts = h('ul', { class: 'prompts', attrs: { 'aria-label': 'Prompts to try' } }, ...PROMPTS.map(({ title, prompt }) =>
      h('li', {}, h('button', { type: 'button', class: 'prompt', on: { click: () => send(prompt) } },
        h('span', { class: 'prompt-title' }, title), h('span', { class: 'prompt-text' }, prompt)))));
    const more = h('button', { type: 'button', class: 'text-button', on: { click: showDevice } }, 'Details');
    fill(this.root,
      icon('lamp', 'lamp hero-lamp'), this.#title, this.#lead,
      this.statusSlot, this.#start, this.#prompts,
      h('div', { class: 'device-row' }, this.#device, more),
      h('p', { class: 'privacy' }, icon('lock'), 'Your words stay in this tab: there is no server, no account and no tracking.'));
  }

  show(state: HostState): void {
    const ready = state.kind === 'ready';
    this.#start.hidden = ready || state.kind === 'loading';
    this.#prompts.hidden = !ready;
    this.#title.textContent = ready ? 'What shall we talk about?' : 'A language model, in this tab';
    this.#lead.textContent = ready ? `${state.request.label} is running on ${backendName(state.engine.info.backend)}.`
      : 'Lamplight runs open-weight models inside the page, on your own GPU or CPU, straight from a GGUF file.';
  }

  /** One line on what this device would use. */
  showDevice(text: string): void {
    this.#device.textContent = text;
  }
}
