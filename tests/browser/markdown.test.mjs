// What the demo page makes of a model's words: the page's own Markdown module, in Chromium, under the page's own policy.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { build } from 'vite';
import { headerPolicy } from '../../www/csp.mjs';
import { ROOT, launch } from './harness.mjs';
import { FORBIDDEN, HOSTILE } from './hostile.mjs';
import { startServer } from './server.mjs';

const PAGE = '<!doctype html><meta charset="utf-8"><title>markdown</title><main></main><script type="module" src="/start.js"></script>';
const START = `import { renderMarkdown, showFragment } from '/built/markdown.js';
const main = document.querySelector('main');
globalThis.violations = [];
document.addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective + ' ' + event.blockedURI));
globalThis.render = (text) => { showFragment(main, renderMarkdown(text)); return main.innerHTML; };
globalThis.ready = true;`;

describe('model output as Markdown', () => {
  let server, browser, page, folder;
  before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lamplight-markdown-'));
    await build({
      configFile: false,
      logLevel: 'warn',
      build: { outDir: folder, emptyOutDir: true, target: 'es2023', lib: { entry: path.join(ROOT, 'www/src/markdown.ts'), formats: ['es'], fileName: () => 'markdown.js' } },
    });
    server = await startServer({
      mounts: { '/built/': folder },
      files: { '/index.html': Buffer.from(PAGE), '/start.js': Buffer.from(START) },
      headers: { 'Content-Security-Policy': headerPolicy },
    });
    browser = await launch({ gpu: 'none' });
    page = await browser.context.newPage();
    await page.goto(`${server.origin}/index.html`);
    await page.waitForFunction(() => globalThis.ready === true);
    server.clearLog();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    if (folder) fs.rmSync(folder, { recursive: true, force: true });
  });

  test('nothing hostile runs, loads or stays', async () => {
    for (const text of HOSTILE) {
      const html = await page.evaluate((source) => render(source), text.replaceAll('EXFIL', `${server.origin}/exfil`));
      const found = await page.evaluate((selector) => [...document.querySelectorAll(`main :is(${selector})`)].map((node) => node.outerHTML), FORBIDDEN);
      assert.deepEqual(found, [], `${text}\nbecame\n${html}`);
      const links = await page.evaluate(() => [...document.querySelectorAll('main a')].map((link) => link.protocol));
      assert.ok(links.every((protocol) => protocol === 'https:' || protocol === 'mailto:'), `${text}: ${links}`);
    }
    // Time for whatever would load or fire late.
    await page.waitForTimeout(300);
    assert.equal(await page.evaluate(() => globalThis.owned), undefined);
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/exfil')), []);
    // The first wall held by itself: the policy, the second one, was never reached.
    assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
  });

  test('the same texts arriving letter by letter stay harmless', async () => {
    for (const text of HOSTILE) {
      const bad = await page.evaluate(({ source, selector }) => {
        for (let end = 1; end <= source.length; end += 1) {
          render(source.slice(0, end));
          const node = document.querySelector(`main :is(${selector})`);
          if (node) return `${source.slice(0, end)} -> ${node.outerHTML}`;
        }
        return null;
      }, { source: text.replaceAll('EXFIL', `${server.origin}/exfil`), selector: FORBIDDEN });
      assert.equal(bad, null);
    }
    assert.equal(await page.evaluate(() => globalThis.owned), undefined);
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/exfil')), []);
  });

  test('a link opens apart, carries no referrer and shows where it leads', async () => {
    const link = await page.evaluate(() => {
      render('See [the docs](https://docs.example.org/a?b=1).');
      const { href, rel, target, title } = document.querySelector('main a');
      return { href, rel, target, title, text: document.querySelector('main').textContent.trim() };
    });
    assert.deepEqual(link, {
      href: 'https://docs.example.org/a?b=1',
      rel: 'noopener noreferrer nofollow',
      target: '_blank',
      title: 'https://docs.example.org/a?b=1',
      text: 'See the docs (docs.example.org).',
    });
    assert.equal(await page.evaluate(() => { render('[x](http://example.org/)'); return document.querySelectorAll('main a').length; }), 0);
  });

  test('a link that shows another address than its own shows its own as well', async () => {
    const shown = (text) => page.evaluate((source) => { render(source); return document.querySelector('main').textContent.trim(); }, text);
    assert.equal(await shown('[https://bank.example](https://evil.example/login)'), 'https://bank.example (evil.example)');
    assert.equal(await shown('[bank.example/evil.example](https://evil.example/)'), 'bank.example/evil.example (evil.example)');
    assert.equal(await shown('<https://docs.example.org/a>'), 'https://docs.example.org/a');
  });

  test('ordinary Markdown keeps its structure', async () => {
    const structure = await page.evaluate(() => {
      render('# One\n\n### Three\n\n1. a\n2. b\n\n```python\nx = 1 < 2\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done\n\n`<b>`');
      const main = document.querySelector('main');
      return {
        headings: [...main.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((node) => node.tagName),
        items: main.querySelectorAll('ol li').length,
        code: main.querySelector('pre').textContent,
        language: main.querySelector('.code-language').textContent,
        align: main.querySelector('td:nth-child(2)').getAttribute('align'),
        task: main.querySelector('ul li').textContent.trim(),
        inline: main.querySelector('p code').textContent,
      };
    });
    assert.deepEqual(structure, {
      headings: ['H3', 'H4'], items: 2, code: 'x = 1 < 2\n', language: 'python', align: 'right', task: '☑ done', inline: '<b>',
    });
  });

  test('what is unchanged stays in place while text is added', async () => {
    const kept = await page.evaluate(() => {
      render('First paragraph.\n\n```js\nlet a;\n```\n\nSec');
      const main = document.querySelector('main');
      const [first, code] = main.children;
      render('First paragraph.\n\n```js\nlet a;\n```\n\nSecond, and more.');
      return [main.children[0] === first, main.children[1] === code, main.lastElementChild.textContent];
    });
    assert.deepEqual(kept, [true, true, 'Second, and more.']);
  });
});
