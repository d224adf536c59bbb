/** A message on the page. A reply is drawn at most once a frame-and-a-bit, whole and sanitised each time. */
import { copyWithFeedback, fill, h, icon, iconButton } from './dom';
import { errorCard } from './error-card';
import { renderMarkdown, showFragment } from './markdown';
import type { Reply } from './reply';

/** Milliseconds between two drawings of a growing reply. */
const DRAW_EVERY = 80;

/** What the user wrote, as it was written. */
export function userMessage(text: string): HTMLLIElement {
  return h('li', { class: 'message user' },
    h('article', {}, h('h2', { class: 'visually-hidden' }, 'You'), h('div', { class: 'bubble', dir: 'auto' }, text)));
}

export class ReplyView {
  readonly root: HTMLLIElement;
  readonly #reply: Reply;
  readonly #body = h('div', { class: 'markdown' });
  readonly #foot = h('div', { class: 'message-foot' });
  readonly #readout = h('dl', { class: 'readout' });
  readonly #drawn: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `drawn` is called after each drawing, for the scroll position. */
  constructor(reply: Reply, drawn: () => void) {
    this.#reply = reply;
    this.#drawn = drawn;
    this.root = h('li', { class: 'message reply', attrs: { 'aria-busy': 'true' } },
      h('article', {},
        h('div', { class: 'avatar' }, icon('lamp', 'lamp')),
        h('div', { class: 'message-main' },
          h('h2', { class: 'visually-hidden' }, 'Lamplight'),
          this.#body, this.#foot)));
    fill(this.#foot, this.#readout);
    this.#body.addEventListener('click', (event) => copyCode(event));
    this.#draw();
  }

  /** Says that the reply has grown. */
  update(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#draw();
    }, DRAW_EVERY);
  }

  /** Draws the end: final text, measurements, buttons. `reload` is there when the engine is gone. */
  finish(regenerate: () => void, reload?: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.root.removeAttribute('aria-busy');
    this.#draw();
    const reply = this.#reply;
    const copy = iconButton('copy', 'Copy the reply', () => void copyWithFeedback(copy, reply.text), 'icon-button small');
    const again = iconButton('redo', 'Regenerate the reply', regenerate, 'icon-button small regenerate');
    const retry = h('button', { type: 'button', class: 'button small', on: { click: reload ?? regenerate } }, reload ? 'Load the model again' : 'Try again');
    if (reply.error !== undefined) this.#foot.before(errorCard(reply.error, retry));
    fill(this.#foot,
      h('div', { class: 'message-actions' }, reply.text ? copy : null, again),
      reply.ending ? h('span', { class: 'ending' }, reply.ending) : null,
      this.#readout);
    this.#drawn();
  }

  /** Only the last reply can be made anew. */
  retire(): void {
    this.root.querySelector('.regenerate')?.remove();
  }

  #draw(): void {
    const reply = this.#reply;
    if (reply.text) showFragment(this.#body, renderMarkdown(reply.text));
    else if (reply.finish !== undefined) fill(this.#body, h('p', { class: 'note' }, 'The model ended without a word.'));
    else if (reply.error !== undefined) fill(this.#body);
    else fill(this.#body, h('span', { class: 'thinking', attrs: { 'aria-label': 'Reading the prompt' } }, h('i'), h('i'), h('i')));
    this.#body.classList.toggle('writing', !reply.done && reply.text !== '');
    const items = reply.error !== undefined && !reply.usage ? [] : reply.readout(performance.now());
    fill(this.#readout, ...items.map(({ label, value, title }) =>
      h('div', { title }, h('dt', {}, label), h('dd', {}, value))));
    this.#drawn();
  }
}

/** The copy buttons of code blocks are redrawn with the text, so the body listens for them. */
function copyCode(event: Event): void {
  const button = (event.target as Element).closest<HTMLButtonElement>('[data-copy-code]');
  const code = button?.closest('.code-block')?.querySelector('pre')?.textContent;
  if (button && code) void copyWithFeedback(button, code);
}
