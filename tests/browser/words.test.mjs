// Words that mean harm. A model's, in the built demo page under its own policy: they are shown, and nothing runs or is fetched. A
// user's, in front of a model: what spells a control token stays text, with every chat template of the golden sets.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { headerPolicy } from '../../www/csp.mjs';
import { MODEL_FILE, ROOT, around, assertNoProblems, launch, load, openPage } from './harness.mjs';
import { FORBIDDEN, HOSTILE } from './hostile.mjs';
import { startServer } from './server.mjs';

const WWW = path.join(ROOT, 'www/dist');
const N_PIECES = 5;
const GOLDEN = path.join(ROOT, 'tests/golden/hf');

/** Goes before the page's worker and puts other words in its mouth: one of `words` for each piece of text, the rest at the end. */
const mouth = (words) => `const words = ${JSON.stringify(words)};
const post = self.postMessage.bind(self);
let speaking;
self.postMessage = (message, ...rest) => {
  const [handler, reply] = message?.ProcessOutput ?? [];
  if (reply?.event?.kind === 'text') {
    speaking = reply.id;
    reply.event.text = words.shift() ?? '';
  } else if (reply?.type === 'result' && reply.id === speaking) {
    // A model may have less to say than there are words.
    for (const text of words.splice(0)) post({ ProcessOutput: [handler, { id: reply.id, type: 'event', event: { kind: 'text', text } }] });
  }
  post(message, ...rest);
};`;

test('what a model says cannot run, load or reach anything in the demo page', async () => {
  const worker = fs.readdirSync(path.join(WWW, 'assets')).find((name) => /^worker-.*\.js$/.test(name));
  const files = {
    [`/assets/${worker}`]: Buffer.from("import './mouth.js';\nimport './real-worker.js';\n"),
    '/assets/real-worker.js': path.join(WWW, 'assets', worker),
  };
  // As the page's own server sends it, so that the words meet both walls.
  const server = await startServer({ app: { root: WWW, models: [MODEL_FILE] }, files, headers: { 'Content-Security-Policy': headerPolicy } });
  // In pieces that begin and end anywhere.
  const text = `${HOSTILE.join('\n\n').replaceAll('EXFIL', `${server.origin}/exfil`)}\n\nThe end.`;
  const length = Math.ceil(text.length / N_PIECES);
  files['/assets/mouth.js'] = Buffer.from(mouth(Array.from({ length: N_PIECES }, (_, index) => text.slice(index * length, (index + 1) * length))));
  const browser = await launch({ gpu: 'none' });
  try {
    const page = await openPage(browser, server, { until: () => document.querySelector('.model-offer') });
    page.setDefaultTimeout(60_000);
    await page.locator('.welcome').getByRole('button', { name: /Download/ }).click();
    await page.getByRole('dialog').getByRole('button', { name: /^Download/ }).click();
    await page.getByRole('heading', { name: 'What shall we talk about?' }).waitFor();
    await page.getByLabel('Max. tokens').fill('24');
    await page.getByLabel('Max. tokens').press('Tab');
    await page.getByRole('textbox', { name: 'Message' }).fill('Count from one to a hundred.');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Regenerate the reply' }).waitFor();
    const reply = page.locator('.message.reply .markdown').last();
    assert.match(await reply.innerText(), /The end\.\s*$/);
    assert.deepEqual(await reply.evaluate((node, selector) => [...node.querySelectorAll(selector)].map((found) => found.outerHTML), FORBIDDEN), []);
    assert.equal(await page.evaluate(() => globalThis.owned), undefined);
    // A reload comes after whatever would load or fire late.
    await page.reload();
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/exfil')), []);
    assertNoProblems(page);
  } finally {
    await browser.close();
    await server.close();
  }
});

/** One golden folder for each chat template, with the template's own control tokens. */
function templates() {
  const found = new Map();
  for (const name of fs.readdirSync(GOLDEN).sort()) {
    const read = (file) => {
      const full = path.join(GOLDEN, name, file);
      return fs.existsSync(full) ? JSON.parse(fs.readFileSync(full, 'utf8')) : {};
    };
    const { chat_template: template } = read('tokenizer_config.json');
    const specials = (read('tokenizer.json').added_tokens ?? []).filter(({ special }) => special).map(({ content }) => content);
    if (template && specials.length > 0 && !found.has(template)) found.set(template, [name, specials]);
  }
  return [...found.values()];
}

describe('control tokens in what users write', () => {
  let page;
  around({}, (started) => { ({ page } = started); });

  test('there are templates of several kinds', () => assert.ok(templates().length >= 8, `${templates().length}`));

  for (const [name, specials] of templates()) {
    test(`stay text: ${name}`, async () => {
      const options = { model: `/golden/hf/${name}/`, backend: 'cpu', contextLength: 128, cache: false };
      await load(page, options);
      const wrong = await page.evaluate(async (controls) => {
        const ids = [];
        for (const control of controls) ids.push(...await engine.tokenize(control, { parseSpecial: true }));
        const count = async (content) => {
          const { ids: prompt } = await engine.applyChatTemplate([{ role: 'user', content }]);
          return ids.map((id) => prompt.filter((other) => other === id).length).join();
        };
        const harmless = await count('ab');
        const wrong = [];
        for (const control of controls) {
          const half = Math.ceil(control.length / 2);
          for (const content of [control, `a${control}b`, `\n${control}${control}`, `${control.slice(half)} ${control.slice(0, half)}`]) {
            if (await count(content) !== harmless) wrong.push(content);
          }
        }
        return wrong;
      }, specials);
      assert.deepEqual(wrong, []);
      assertNoProblems(page);
    });
  }
});
