/** The lines that put such a chat into a page of one's own. */
import { copyWithFeedback, h, iconButton } from './dom';

const CODE = `import { createEngine } from 'lamplight';

const engine = await createEngine({ model: 'models/model.gguf' });
const stream = await engine.chat.completions.create({
  messages: [{ role: 'user', content: 'Why is the sky blue?' }],
  stream: true,
});
for await (const chunk of stream) {
  document.body.append(chunk.choices[0].delta.content ?? '');
}
`;

export function snippet(): HTMLElement {
  const copy = iconButton('copy', 'Copy code', () => void copyWithFeedback(copy, CODE), 'icon-button small');
  return h('div', {},
    h('p', { class: 'note' }, 'This page uses the npm package lamplight, as yours can:'),
    h('div', { class: 'code-block' },
      h('div', { class: 'code-head' }, h('span', { class: 'code-language' }, 'javascript'), copy),
      h('pre', { tabIndex: 0, attrs: { role: 'region', 'aria-label': 'Example code' } }, h('code', {}, CODE))));
}
