/** An error as the user sees it: title, the error's own words, advice, code and field. */
import { explain } from './errors';
import { h, icon } from './dom';

/** `actions` are buttons such as “Try again”. */
export function errorCard(error: unknown, ...actions: HTMLButtonElement[]): HTMLElement {
  const { title, detail, advice, code, field } = explain(error);
  return h('div', { class: 'error-card', attrs: { role: 'alert' } },
    icon('alert'),
    h('div', { class: 'error-text' },
      h('p', { class: 'error-title' }, title),
      h('p', { class: 'error-detail' }, detail),
      h('p', { class: 'error-advice' }, advice),
      h('p', { class: 'error-code' }, h('code', {}, code), field ? h('span', {}, ' at ', h('code', {}, field)) : null),
      actions.length > 0 && h('div', { class: 'button-row' }, ...actions)));
}
