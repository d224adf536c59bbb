/** How full this site's storage is, and whether the browser may clear it; asks it not to. */
import { models } from 'lamplight';
import { announce } from './announcer';
import { fill, h } from './dom';
import { bytes } from './format';

export class StorageMeter {
  readonly root = h('div', { class: 'storage' });
  #freeBytes: number | undefined;

  /** What the browser would let this site store besides. */
  get freeBytes(): number | undefined {
    return this.#freeBytes;
  }

  async refresh(): Promise<void> {
    const storage = await models.storage();
    this.#freeBytes = storage && Math.max(0, storage.quotaBytes - storage.usageBytes);
    if (!storage) return fill(this.root, h('p', { class: 'note' }, 'The browser does not say how much storage there is.'));
    const share = storage.quotaBytes > 0 ? Math.min(1, storage.usageBytes / storage.quotaBytes) : 0;
    const used = `${bytes(storage.usageBytes)} of about ${bytes(storage.quotaBytes)}`;
    const persist = h('button', { type: 'button', class: 'button small', on: { click: () => void this.#persist(persist) } },
      'Keep them', h('span', { class: 'visually-hidden' }, ' when space runs low'));
    fill(this.root,
      h('div', { class: 'storage-head' }, h('span', {}, 'Storage'), h('span', {}, used)),
      h('meter', { min: 0, max: 1, value: share, attrs: { 'aria-label': 'Storage used', 'aria-valuetext': used } }),
      storage.persisted
        ? h('p', { class: 'note' }, 'Persistent: the browser keeps the models until you delete them.')
        : h('div', { class: 'note-row' }, h('p', { class: 'note' }, 'The browser may clear the models when space runs low.'), persist));
  }

  async #persist(button: HTMLButtonElement): Promise<void> {
    button.disabled = true;
    const granted = await models.persist();
    announce(granted ? 'The browser keeps the models.' : 'The browser did not agree to keep the models.');
    if (granted) await this.refresh();
    else button.replaceWith(h('span', { class: 'note' }, 'Not granted'));
  }
}
