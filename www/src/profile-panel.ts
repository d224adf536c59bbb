/** For people who make it faster: whether the next replies are timed, and where the time of the last one went. */
import type { KernelTime, Profile } from 'lamplight';
import { fill, h, uniqueId } from './dom';
import { bytes, count, rate } from './format';
import { remember, remembered } from './store';

const KEY = 'profile';

export class ProfilePanel {
  readonly root: HTMLElement;
  readonly #result = h('div', { class: 'profile', attrs: { 'aria-live': 'polite' } });
  #wanted = remembered<unknown>(KEY, false) === true;

  constructor() {
    const id = uniqueId(KEY);
    const box = h('input', {
      id,
      type: 'checkbox',
      checked: this.#wanted,
      on: {
        change: () => {
          this.#wanted = box.checked;
          remember(KEY, this.#wanted);
        },
      },
    });
    this.root = h('div', {},
      h('div', { class: 'check' }, box, h('label', { htmlFor: id }, 'Time the kernels of each reply')),
      h('p', { class: 'note' }, 'Timed replies take longer. On WebGPU the times are the GPU’s own.'),
      this.#result);
  }

  /** Whether the next reply is to be timed. */
  get wanted(): boolean {
    return this.#wanted;
  }

  /** What was found of a reply; nothing of one that was not timed. */
  show(profile: Profile | undefined): void {
    if (!profile) return fill(this.#result);
    const { kernels, missing } = profile;
    if (kernels.length === 0) {
      return fill(this.#result, h('p', { class: 'note' }, missing ? `No times: ${missing}.` : 'Nothing was timed.'));
    }
    const total = kernels.reduce((sum, kernel) => sum + kernel.ms, 0);
    const heads = ['Calls', 'Time', 'Share', 'Read', 'Of peak'];
    fill(this.#result,
      h('table', {},
        h('caption', { class: 'visually-hidden' }, 'Where the time of the last reply went'),
        h('thead', {}, h('tr', {}, ...heads.map((head) => h('th', { attrs: { scope: 'col' } }, head)))),
        ...kernels.map((kernel) => rows(kernel, total))),
      h('p', { class: 'note' }, ...notes(profile, total)));
  }
}

/** The name has a line of its own: the panel is narrow. */
function rows({ name, calls, ms, bytes: read, share }: KernelTime, total: number): HTMLElement {
  const cells = [count(calls), milliseconds(ms), percent(ms / total), read > 0 ? bytes(read) : '–', share === undefined ? '–' : percent(share)];
  return h('tbody', {},
    h('tr', {}, h('th', { colSpan: cells.length, attrs: { scope: 'rowgroup' } }, name)),
    h('tr', {}, ...cells.map((cell) => h('td', {}, cell))));
}

function notes({ bytesPerSecond, roundedTo }: Profile, total: number): string[] {
  const notes = [`${milliseconds(total)} in all.`];
  if (bytesPerSecond !== undefined) notes.push(` Peak: ${bytes(bytesPerSecond)} a second, which copies in memory move.`);
  if (roundedTo !== undefined) notes.push(` The browser rounds each time to ${rate(roundedTo)} ms.`);
  return notes;
}

function milliseconds(value: number): string {
  return `${value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 2 : 0 })} ms`;
}

function percent(share: number): string {
  return `${(100 * (share || 0)).toLocaleString('en', { maximumFractionDigits: 1 })} %`;
}
