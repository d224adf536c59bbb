/** The side panel: model, settings, stored models, device. Beside the chat on a wide screen, a drawer on a narrow one. */
import { h, icon, iconButton } from './dom';
import { remember, remembered } from './store';

export interface PanelSection {
  id: string;
  title: string;
  body: HTMLElement;
  open: boolean;
}

const DRAWER = '(max-width: 67.99rem)';

export class Panel {
  readonly root: HTMLElement;
  /** The button of the top bar. */
  readonly toggle: HTMLButtonElement;
  readonly scrim: HTMLElement;
  readonly #drawer = matchMedia(DRAWER);
  /** What is not reachable while the drawer is open. */
  readonly #behind: () => HTMLElement[];
  #open: boolean;

  constructor(sections: PanelSection[], behind: () => HTMLElement[]) {
    this.#behind = behind;
    this.toggle = iconButton('panel', 'Model and settings', () => this.#set(!this.#open), 'icon-button panel-toggle');
    this.toggle.setAttribute('aria-controls', 'panel');
    this.scrim = h('div', { class: 'scrim', on: { click: () => this.close() } });
    this.root = h('aside', { id: 'panel', class: 'panel', attrs: { 'aria-label': 'Model and settings' } },
      h('div', { class: 'panel-head' },
        h('p', { class: 'panel-title' }, 'Model and settings'),
        iconButton('close', 'Close the panel', () => this.close(), 'icon-button')),
      ...sections.map(sectionElement));
    this.#open = !this.#drawer.matches && remembered('panel', true);
    this.#drawer.addEventListener('change', () => {
      this.#open = !this.#drawer.matches && remembered('panel', true);
      this.#show();
    });
    this.root.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.#drawer.matches) {
        event.stopPropagation();
        this.close();
      }
    });
    this.#show();
  }

  /** Opens the panel at one of its sections. */
  reveal(id: string): void {
    this.#set(true);
    const section = this.root.querySelector<HTMLDetailsElement>(`[data-section="${id}"]`);
    if (!section) return;
    section.open = true;
    section.querySelector('summary')?.focus();
    section.scrollIntoView({ block: 'nearest' });
  }

  close(): void {
    this.#set(false);
  }

  /** Gives the drawer's place back to the chat, when there is a drawer. */
  closeDrawer(): void {
    if (this.#drawer.matches) this.#set(false);
  }

  #set(open: boolean): void {
    if (this.#open === open) return;
    const hadFocus = this.root.contains(document.activeElement);
    this.#open = open;
    if (!this.#drawer.matches) remember('panel', open);
    this.#show();
    if (open) this.root.querySelector<HTMLElement>('.panel-head button')?.focus({ preventScroll: true });
    else if (hadFocus) this.toggle.focus();
  }

  #show(): void {
    const modal = this.#open && this.#drawer.matches;
    this.root.hidden = !this.#open;
    this.scrim.hidden = !modal;
    this.toggle.setAttribute('aria-expanded', String(this.#open));
    for (const element of this.#behind()) element.inert = modal;
  }
}

function sectionElement({ id, title, body, open }: PanelSection): HTMLElement {
  const key = `section.${id}`;
  const details: HTMLDetailsElement = h('details', {
    class: 'panel-section',
    open: remembered(key, open),
    attrs: { 'data-section': id },
    on: { toggle: () => remember(key, details.open) },
  },
    h('summary', {}, h('h2', {}, title), icon('chevron', 'icon chevron')),
    h('div', { class: 'section-body' }, body));
  return details;
}
