/** Building elements without HTML strings: every text becomes a text node. */

type Child = Node | string | number | null | undefined | false;

type Props<T extends HTMLElement> = {
  class?: string;
  attrs?: Record<string, string | number | boolean | undefined>;
  on?: { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };
} & Partial<Omit<T, 'children' | 'style' | 'classList' | 'attributes'>>;

/** `h('button', { class: 'quiet', type: 'button' }, 'Copy')`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props<HTMLElementTagNameMap[K]> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  const { class: className, attrs, on, ...rest } = props;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const [type, listener] of Object.entries(on ?? {})) {
    element.addEventListener(type, listener as EventListener);
  }
  Object.assign(element, rest);
  append(element, children);
  return element;
}

/** Replaces what an element holds. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  append(element, children);
}

function append(element: Element, children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === 'number' ? String(child) : child);
  }
}

const SVG = 'http://www.w3.org/2000/svg';

/** A decorative icon of the sprite in index.html. */
export function icon(name: string, className = 'icon'): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', className);
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('focusable', 'false');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon only; the label is its accessible name and its tooltip. */
export function iconButton(name: string, label: string, onClick: () => void, className = 'icon-button'): HTMLButtonElement {
  return h('button', {
    type: 'button',
    class: className,
    title: label,
    attrs: { 'aria-label': label },
    on: { click: onClick },
  }, icon(name));
}

/** Changes icon and label of an `iconButton`. */
export function setIconButton(button: HTMLButtonElement, name: string, label: string): void {
  button.querySelector('use')?.setAttribute('href', `#i-${name}`);
  button.title = label;
  button.setAttribute('aria-label', label);
}

let lastId = 0;

/** An id for `for` and `aria-describedby`. */
export function uniqueId(stem: string): string {
  lastId += 1;
  return `${stem}-${lastId}`;
}

/** Puts text on the clipboard and lets the button say so for a moment. */
export async function copyWithFeedback(button: HTMLButtonElement, text: string): Promise<void> {
  const label = button.getAttribute('aria-label') ?? 'Copy';
  try {
    await navigator.clipboard.writeText(text);
    setIconButton(button, 'check', 'Copied');
  } catch {
    setIconButton(button, 'alert', 'Copying was blocked by the browser');
  }
  setTimeout(() => setIconButton(button, 'copy', label), 1600);
}
