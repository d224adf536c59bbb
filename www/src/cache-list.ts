/** The models stored in this browser: each can be loaded, pinned, checked and deleted; and how full the storage is. */
import { models, type CachedModel } from 'lamplight';
import { announce } from './announcer';
import { storedName } from './catalog';
import { fill, h, icon, iconButton } from './dom';
import { explain } from './errors';
import { ago, bytes } from './format';
import { StorageMeter } from './storage-meter';

export class CacheList extends EventTarget {
  readonly root: HTMLElement;
  readonly #list = h('div', { class: 'cache' });
  readonly #meter = new StorageMeter();
  readonly #load: (entry: CachedModel) => void;
  #entries: CachedModel[] = [];
  /** What was last found out about a model, by its key. */
  readonly #notes = new Map<string, string>();
  /** Keys of models that are being checked. */
  readonly #checking = new Set<string>();

  constructor(load: (entry: CachedModel) => void) {
    super();
    this.#load = load;
    this.root = h('div', {}, this.#list, this.#meter.root);
  }

  get entries(): CachedModel[] {
    return this.#entries;
  }

  /** What the browser would let this site store besides, if it says. */
  get freeBytes(): number | undefined {
    return this.#meter.freeBytes;
  }

  /** Reads the list anew; fires `change`. */
  async refresh(): Promise<void> {
    const meter = this.#meter.refresh();
    try {
      this.#entries = await models.list();
      this.#show();
    } catch (error) {
      this.#entries = [];
      const { title, detail } = explain(error);
      fill(this.#list, h('p', { class: 'note' }, `${title}. ${detail}`));
    }
    await meter;
    this.dispatchEvent(new Event('change'));
  }

  #show(): void {
    if (this.#entries.length === 0) {
      fill(this.#list, h('p', { class: 'note' }, 'Nothing is stored yet. A downloaded model is kept here, so that it loads without a network next time.'));
      return;
    }
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset['action'] : undefined;
    const total = this.#entries.reduce((sum, entry) => sum + entry.bytesStored, 0);
    fill(this.#list,
      h('ul', { class: 'cache-list' }, ...this.#entries.map((entry) => this.#row(entry))),
      h('p', { class: 'note' }, `${bytes(total)} in all`));
    // The list is drawn anew after every action: the keyboard stays where it was.
    if (focused) this.#list.querySelector<HTMLElement>(`[data-action="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(entry: CachedModel): HTMLLIElement {
    const { key, pinned } = entry;
    const name = storedName(key, entry.name);
    const size = entry.complete ? bytes(entry.bytesStored) : `${bytes(entry.bytesStored)} of ${bytes(entry.bytesTotal)}`;
    const checking = this.#checking.has(key);
    const pin = iconButton('pin', `Pin ${name}`, () => void this.#pin(entry), 'icon-button small');
    pin.setAttribute('aria-pressed', String(pinned));
    pin.title = pinned ? 'Pinned: never removed to make room for another model' : 'Pin: never remove it to make room for another model';
    const check = iconButton('shield', `Check ${name}`, () => void this.#verify(entry), 'icon-button small');
    check.title = 'Check every stored part against its hash';
    // Not `disabled`, which would take the keyboard away.
    check.setAttribute('aria-disabled', String(checking));
    const remove = iconButton('trash', `Delete ${name} from this browser`, () => this.#askToDelete(entry), 'icon-button small');
    for (const [action, button] of [['pin', pin], ['check', check], ['delete', remove]] as const) button.dataset['action'] = `${action} ${key}`;
    const note = checking ? 'Checking every part…' : this.#notes.get(key);
    return h('li', { attrs: { 'aria-busy': checking } },
      h('div', { class: 'cache-text' },
        h('span', { class: 'cache-name', title: key }, name),
        h('span', { class: 'facts' }, `${size} · ${ago(entry.lastUsed)}`)),
      h('button', { type: 'button', class: 'button small', on: { click: () => this.#load(entry) } },
        entry.complete ? 'Load' : 'Finish', h('span', { class: 'visually-hidden' }, ` ${name}`)),
      entry.complete ? null : h('progress', { max: 1, value: entry.bytesStored / Math.max(entry.bytesTotal, 1), attrs: { 'aria-label': `Stored of ${name}` } }),
      h('div', { class: 'cache-actions' }, h('span', { class: 'note' }, note), pin, check, remove));
  }

  async #pin(entry: CachedModel): Promise<void> {
    const name = storedName(entry.key, entry.name);
    await this.#act(async () => {
      await models.pin(entry.key, !entry.pinned);
      return entry.pinned ? `${name} is no longer pinned.` : `${name} is pinned.`;
    });
  }

  async #verify(entry: CachedModel): Promise<void> {
    const { key } = entry;
    if (this.#checking.has(key)) return;
    this.#checking.add(key);
    this.#show();
    await this.#act(async () => {
      try {
        const { parts, bad } = await models.verify(key);
        const note = bad === 0 ? `All ${parts} parts are sound` : `${bad} of ${parts} parts were damaged; a load fetches them again`;
        this.#notes.set(key, note);
        return `${storedName(key, entry.name)}: ${note}.`;
      } finally {
        this.#checking.delete(key);
      }
    });
  }

  /** Does something to the store and says how it went. */
  async #act(action: () => Promise<string>): Promise<void> {
    try {
      announce(await action());
    } catch (error) {
      announce(explain(error).title);
    }
    await this.refresh();
  }

  /** Deleting asks once more, in the row itself. */
  #askToDelete(entry: CachedModel): void {
    const row = this.#list.querySelectorAll('li')[this.#entries.indexOf(entry)];
    if (!row) return;
    const confirm = h('button', { type: 'button', class: 'button small danger', on: { click: () => void this.#delete(entry) } },
      icon('trash'), 'Delete');
    fill(row,
      h('span', { class: 'cache-text' }, `Delete ${bytes(entry.bytesStored)}?`),
      h('div', { class: 'button-row' },
        confirm,
        h('button', { type: 'button', class: 'button small', on: { click: () => this.#show() } }, 'Keep')));
    confirm.focus();
  }

  async #delete(entry: CachedModel): Promise<void> {
    this.#notes.delete(entry.key);
    await this.#act(async () => {
      await models.delete(entry.key);
      return `${storedName(entry.key, entry.name)} was deleted.`;
    });
    this.root.closest('details')?.querySelector('summary')?.focus();
  }
}
