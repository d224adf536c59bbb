/** The message field: Enter sends, Shift+Enter breaks the line, the button stops while a reply is written. */
import { h, icon, setIconButton, uniqueId } from './dom';

export interface ComposerActions {
  send(text: string): void;
  stop(): void;
}

export class Composer {
  readonly root: HTMLFormElement;
  readonly #input: HTMLTextAreaElement;
  readonly #button: HTMLButtonElement;
  readonly #meter = h('span', { class: 'context-meter' });
  readonly #actions: ComposerActions;
  #busy = false;
  #ready = false;

  constructor(actions: ComposerActions) {
    this.#actions = actions;
    const id = uniqueId('message');
    this.#input = h('textarea', {
      id,
      rows: 1,
      placeholder: 'Write a message',
      attrs: { enterkeyhint: 'send', 'data-composer': true },
      on: { input: () => this.#grow(), keydown: (event) => this.#key(event) },
    });
    this.#button = h('button', { type: 'submit', class: 'icon-button send', attrs: { 'aria-label': 'Send' }, title: 'Send' }, icon('send'));
    this.root = h('form', { class: 'composer', on: { submit: (event) => this.#submit(event) } },
      h('label', { htmlFor: id, class: 'visually-hidden' }, 'Message'),
      h('div', { class: 'composer-box' }, this.#input, this.#button),
      h('p', { class: 'composer-hint' },
        h('span', { class: 'keys' }, h('kbd', {}, 'Enter'), ' sends, ', h('kbd', {}, 'Shift Enter'), ' breaks the line, ', h('kbd', {}, 'Esc'), ' stops'),
        this.#meter,
        h('span', { class: 'caution' }, 'Small models make mistakes.')));
    this.#show();
  }

  /** `ready`: a model is loaded. `busy`: a reply is being written. */
  setState(state: { ready: boolean; busy: boolean }): void {
    this.#ready = state.ready;
    this.#busy = state.busy;
    this.#show();
  }

  /** How full the context is. */
  setContext(used: number, limit: number): void {
    this.#meter.textContent = used > 0 ? `${used.toLocaleString('en')} of ${limit.toLocaleString('en')} tokens used` : '';
    this.#meter.classList.toggle('nearly-full', limit > 0 && used / limit > 0.85);
  }

  focus(): void {
    this.#input.focus();
  }

  #show(): void {
    if (this.#busy) setIconButton(this.#button, 'stop', 'Stop (Esc)');
    else setIconButton(this.#button, 'send', this.#ready ? 'Send' : 'Send (load a model first)');
    this.#input.placeholder = this.#ready ? 'Write a message' : 'Load a model to start';
    this.#button.classList.toggle('stopping', this.#busy);
    this.#button.disabled = !this.#busy && (!this.#ready || this.#input.value.trim() === '');
  }

  #submit(event: SubmitEvent): void {
    event.preventDefault();
    if (this.#busy) {
      this.#actions.stop();
      this.#input.focus();
      return;
    }
    const text = this.#input.value.trim();
    if (!this.#ready || text === '') return;
    this.#input.value = '';
    this.#grow();
    this.#actions.send(text);
  }

  #key(event: KeyboardEvent): void {
    // While an input method composes, Enter belongs to it.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#busy) this.root.requestSubmit();
  }

  /** As high as the text, up to the limit in the style sheet. */
  #grow(): void {
    this.#input.style.height = 'auto';
    this.#input.style.height = `${this.#input.scrollHeight}px`;
    this.#show();
  }
}
