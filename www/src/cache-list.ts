/** The models stored in this browser: name, size, last use; each can be loaded or deleted. */
import { models, type CachedModel } from 'lamplight';
import { announce } from './announcer';
import { storedName } from './catalog';
import { fill, h, icon, iconButton } from './dom';
import { explain } from './errors';
import { ago, bytes } from './format';

export class CacheList extends EventTarget {
  readonly root = h('div', { class: 'cache' });
  #entries: CachedModel[] = [];
  readonly #load: (entry: CachedModel) => void;

  constructor(load: (entry: CachedModel) => void) {
    super();
    this.#load = load;
  }

  get entries(): CachedModel[] {
    return this.#entries;
  }

  /** Reads the list anew; fires `change`. */
  async refresh(): Promise<void> {
    try {
      this.#entries = (await models.list()).sort((a, b) => b.lastUsed - a.lastUsed);
      this.#show();
    } catch (error) {
      this.#entries = [];
      const { title, detail } = explain(error);
      fill(this.root, h('p', { class: 'note' }, `${title}. ${detail}`));
    }
    this.dispatchEvent(new Event('change'));
  }

  #show(): void {
    if (this.#entries.length === 0) {
      fill(this.root, h('p', { class: 'note' }, 'Nothing is stored yet. A downloaded model is kept here, so that it loads without a network next time.'));
      return;
    }
    const total = this.#entries.reduce((sum, entry) => sum + entry.bytesStored, 0);
    fill(this.root,
      h('ul', { class: 'cache-list' }, ...this.#entries.map((entry) => this.#row(entry))),
      h('p', { class: 'note' }, `${bytes(total)} in all`));
  }

  #row(entry: CachedModel): HTMLLIElement {
    const name = storedName(entry.key, entry.name);
    const size = entry.complete ? bytes(entry.bytesStored) : `${bytes(entry.bytesStored)} of ${bytes(entry.bytesTotal)}, incomplete`;
    return h('li', {},
      h('div', { class: 'cache-text' },
        h('span', { class: 'cache-name', title: entry.key }, name),
        h('span', { class: 'facts' }, `${size} · ${ago(entry.lastUsed)}`)),
      h('button', {
        type: 'button',
        class: 'button small',
        on: { click: () => this.#load(entry) },
      }, entry.complete ? 'Load' : 'Finish', h('span', { class: 'visually-hidden' }, ` ${name}`)),
      iconButton('trash', `Delete ${name} from this browser`, () => this.#askToDelete(entry), 'icon-button small'));
  }

  /** Deleting asks once more, in the row itself. */
  #askToDelete(entry: CachedModel): void {
    const row = this.root.querySelectorAll('li')[this.#entries.indexOf(entry)];
    if (!row) return;
    const confirm = h('button', { type: 'button', class: 'button small danger', on: { click: () => void this.#delete(entry) } },
      icon('trash'), 'Delete');
    fill(row,
      h('span', { class: 'cache-text' }, `Delete ${bytes(entry.bytesStored)}?`),
      confirm,
      h('button', { type: 'button', class: 'button small', on: { click: () => this.#show() } }, 'Keep'));
    confirm.focus();
  }

  async #delete(entry: CachedModel): Promise<void> {
    try {
      await models.delete(entry.key);
      announce(`${storedName(entry.key, entry.name)} was deleted.`);
    } catch (error) {
      announce(explain(error).title);
    }
    await this.refresh();
    this.root.closest('details')?.querySelector('summary')?.focus();
  }
}
