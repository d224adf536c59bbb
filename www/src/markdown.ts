/**
 * Model output as sanitised Markdown. What a model writes is untrusted: no raw HTML, no images, no forms or frames,
 * links only to https and mailto with their target shown. Everything is parsed and sanitised in an inert document,
 * the whole message each time, before a node of it reaches the page.
 */
import DOMPurify from 'dompurify';
import { Marked } from 'marked';
import { h, icon } from './dom';

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escape = (text: string) => text.replace(/[&<>"']/g, (character) => escapes[character] ?? character);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // Tags in the text are shown as text.
    html: ({ text }) => escape(text),
    // An image's address can carry data away, so nothing is requested: its description stands for it.
    image: ({ text, href }) => `<em>[image not loaded: ${escape(text || href)}]</em>`,
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

const ALLOWED_TAGS = [
  'p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li',
  'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a',
];
const ALLOWED_ATTR = ['href', 'class', 'align', 'start'];

/** The message as nodes, ready to be put into the page. */
export function renderMarkdown(text: string): DocumentFragment {
  const html = marked.parse(text, { async: false });
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https:\/\/|mailto:)/i,
    // These hold no address.
    ADD_URI_SAFE_ATTR: ['align', 'start'],
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll('a')) dressLink(link);
  nestHeadings(fragment);
  for (const code of fragment.querySelectorAll('code')) keepLanguageClass(code);
  for (const pre of fragment.querySelectorAll('pre')) dressCodeBlock(pre);
  for (const table of fragment.querySelectorAll('table')) {
    const scroller = h('div', { class: 'table-scroll', tabIndex: 0, attrs: { role: 'region', 'aria-label': 'Table' } });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  return fragment;
}

/** A link says where it leads; one that leads nowhere allowed becomes plain text. */
function dressLink(link: HTMLAnchorElement): void {
  const target = URL.parse(link.getAttribute('href') ?? '');
  if (target === null || (target.protocol !== 'https:' && target.protocol !== 'mailto:')) {
    link.replaceWith(...link.childNodes);
    return;
  }
  link.target = '_blank';
  link.rel = 'noopener noreferrer nofollow';
  link.title = target.href;
  const shown = (link.textContent ?? '').trim();
  const place = target.protocol === 'mailto:' ? target.pathname : target.host;
  // Only a bare address that is the link's own needs no more words.
  if (shown !== place && URL.parse(shown)?.host !== target.host) link.after(h('span', { class: 'link-target' }, ` (${place})`));
}

/** The page's own headings are h1 and h2: those of a message begin at h3 and skip no level. */
function nestHeadings(fragment: DocumentFragment): void {
  let above = 2;
  for (const heading of fragment.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const level = Math.min(6, above + 1, Number(heading.tagName[1]) + 2);
    const nested = document.createElement(`h${level}`);
    nested.append(...heading.childNodes);
    heading.replaceWith(nested);
    above = level;
  }
}

/** Classes come from the model as well: only a fence's language is kept. */
function keepLanguageClass(code: Element): void {
  const language = /(?:^|\s)(language-[\w+#.-]{1,32})(?:\s|$)/.exec(code.className)?.[1];
  if (language) code.className = language;
  else code.removeAttribute('class');
}

function dressCodeBlock(pre: HTMLPreElement): void {
  const language = pre.querySelector('code')?.className.replace('language-', '') || 'text';
  const copy = h('button', {
    type: 'button',
    class: 'icon-button small',
    title: 'Copy code',
    attrs: { 'aria-label': 'Copy code', 'data-copy-code': true },
  }, icon('copy'));
  const block = h('div', { class: 'code-block' },
    h('div', { class: 'code-head' }, h('span', { class: 'code-language' }, language), copy));
  pre.replaceWith(block);
  pre.tabIndex = 0;
  pre.setAttribute('role', 'region');
  pre.setAttribute('aria-label', `Code, ${language}`);
  block.append(pre);
}

/**
 * Makes `element` show `fragment`, leaving the children that are equal already in place: a text selection, a scroll
 * position or a focused copy button outlives the next token.
 */
export function showFragment(element: Element, fragment: DocumentFragment): void {
  const fresh = [...fragment.childNodes];
  for (const [index, node] of fresh.entries()) {
    const old = element.childNodes[index];
    if (!old) element.append(node);
    else if (!old.isEqualNode(node)) old.replaceWith(node);
  }
  while (element.childNodes.length > fresh.length) element.lastChild?.remove();
}
