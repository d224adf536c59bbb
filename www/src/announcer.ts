/** One polite live region: what a screen-reader user should hear, once, when it is finished. */
import { h } from './dom';

const region = h('div', { class: 'visually-hidden', attrs: { role: 'status', 'aria-live': 'polite' } });

/** Put into the page once. */
export const announcerElement = region;

/** Replaces what is announced. A repeated text is announced again. */
export function announce(text: string): void {
  region.textContent = '';
  // A change within one task would be seen as none.
  setTimeout(() => { region.textContent = text; }, 60);
}
