/** A list of names and values, and a yes-or-no mark that does not speak by colour alone. */
import { h } from './dom';

/** Rows with an undefined value are left out. */
export function factList(rows: [label: string, value: string | Node | undefined][]): HTMLElement {
  return h('dl', { class: 'fact-list' },
    ...rows.filter(([, value]) => value !== undefined).map(([label, value]) =>
      h('div', {}, h('dt', {}, label), h('dd', {}, value))));
}

export function yesNo(value: boolean): HTMLElement {
  return h('span', { class: value ? 'mark yes' : 'mark no' }, value ? 'yes' : 'no');
}
