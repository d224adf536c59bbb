// The built demo page as a visitor uses it, with the real model on the CPU: nothing without a click, load, chat, stop,
// reload from the cache without a network, delete. Served as `make demo` serves it, so with the page's own headers.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MODEL_FILE, ROOT, launch } from './harness.mjs';
import { startServer } from './server.mjs';

const WWW = path.join(ROOT, 'www/dist');
const MODEL_URL = `/models/${encodeURIComponent(path.basename(MODEL_FILE))}`;
const AXE = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Opens the page; its console errors, exceptions and policy violations are kept in `page.problems`. */
async function visit(browser, url, { failedRequests = false } = {}) {
  const page = await browser.context.newPage();
  // One failed step must not cost the ring the many minutes that a slow machine may need for a reply.
  page.setDefaultTimeout(120_000);
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    const known = failedRequests && /Failed to load resource/.test(message.text());
    if (message.type() === 'error' && !known) page.problems.push(`${message.type()}: ${message.text()}`);
  });
  await page.goto(url);
  await page.locator('.model-offer').first().waitFor();
  return page;
}

/** Accessibility rules that the page breaks. Axe comes in through the debugger: the policy would refuse it as a script. */
async function accessibilityProblems(page) {
  const session = await page.context().newCDPSession(page);
  await session.send('Runtime.evaluate', { expression: AXE });
  // A colour half way through its transition has a contrast of its own.
  await page.evaluate(() => Promise.allSettled(document.getAnimations()
    .filter((animation) => Number.isFinite(animation.effect?.getComputedTiming().endTime))
    .map((animation) => animation.finished)));
  const problems = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ['violations'] })).violations
    .map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.target.join(' ')).join(', ')}`));
  await session.detach();
  return problems;
}

/** Waits until something holds in the page: what is shown and where the keyboard is change one after the other. */
async function until(page, what, condition) {
  for (let tries = 0; tries < 600; tries++) {
    if (await page.evaluate(condition)) return;
    await page.waitForTimeout(50);
  }
  assert.fail(`not within half a minute: ${what}`);
}

const send = async (page, text) => {
  await page.getByRole('textbox', { name: 'Message' }).fill(text);
  await page.keyboard.press('Enter');
};
/** The last reply is finished when it can be made anew. */
const replied = (page) => page.getByRole('button', { name: 'Regenerate the reply' }).waitFor();
const lastReply = (page) => page.locator('.message.reply').last();
/** Clicks the first offer's button and agrees to the download. */
const download = async (page) => {
  await page.locator('.welcome').getByRole('button', { name: /Download/ }).click();
  await page.getByRole('dialog').getByRole('button', { name: /^Download/ }).click();
};
/** What was agreed to and goes on after a reload. */
const agreed = (page) => page.evaluate(() => sessionStorage.getItem('lamplight.download'));
/** Waits for the end of a load that was cancelled; what ended it instead is told at once. */
const cancelled = async (page) => {
  const end = page.locator('.load-status').locator('.note, .error-card').first();
  await end.waitFor();
  assert.match(await end.innerText(), /Loading was cancelled/);
};
const ready = (page) => page.getByRole('heading', { name: 'What shall we talk about?' }).waitFor();

describe('the demo page', () => {
  let server, browser, page;
  before(async () => {
    // The model is served a second time by the test server itself, which comes first and can be slowed down.
    server = await startServer({ app: { root: WWW, models: [MODEL_FILE] }, files: { [MODEL_URL]: MODEL_FILE, '/models/other.gguf': MODEL_FILE, '/models/page.gguf': path.join(WWW, 'index.html') } });
    browser = await launch({ gpu: 'none' });
    page = await visit(browser, `${server.origin}/`);
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  test('it opens under its policy, downloads no model by itself and says what the device can do', async () => {
    const device = page.locator('[data-section="device"]');
    await device.getByText('Automatic would choose the CPU').waitFor();
    await page.waitForTimeout(500);
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/models/')), []);
    const response = await page.request.get(`${server.origin}/`);
    assert.match(response.headers()['content-security-policy'], /default-src 'none'.*require-trusted-types-for 'script'.*frame-ancestors 'none'/);
    assert.match(await page.locator('meta[http-equiv="Content-Security-Policy"]').getAttribute('content'), /script-src 'self' 'wasm-unsafe-eval';/);
    assert.deepEqual(await accessibilityProblems(page), []);
    assert.deepEqual(page.problems, []);
  });

  test('the policy is in force: strings become neither HTML nor foreign workers', async () => {
    // From a timer: what runs on the debugger's own stack may evaluate strings.
    const results = await page.evaluate(() => new Promise((resolve) => {
      const attempt = (action) => { try { action(); return 'allowed'; } catch (error) { return error.name; } };
      setTimeout(() => resolve([
        attempt(() => { document.createElement('div').innerHTML = '<img>'; }),
        attempt(() => new Worker('https://elsewhere.example/worker.js')),
        attempt(() => new Function('return 1')()),
      ]));
    }));
    assert.deepEqual(results, ['TypeError', 'TypeError', 'EvalError']);
    page.problems.length = 0;
  });

  test('an address that is no model is an error that says so, and a bad one is refused at once', async () => {
    const field = page.locator('.welcome').getByLabel(/^Address of a GGUF file/);
    await field.fill('ftp://example.org/model.gguf');
    await field.press('Enter');
    await page.locator('.welcome').getByText('The address must begin with https://').waitFor();
    await field.fill(`${server.origin}/models/page.gguf`);
    await field.press('Enter');
    await page.getByRole('dialog').getByText('This is not a model file').waitFor();
    await page.getByRole('dialog').getByRole('button', { name: 'Try all the same' }).click();
    const card = page.locator('.error-card');
    await card.getByText('not-a-model').waitFor();
    assert.match(await card.textContent(), /This is not a model file/);
    assert.equal(await agreed(page), null, 'a page that is no model is not what a reload goes on with');
    // Tried again, it is a download that the user agreed to.
    server.fault('/models/page.gguf', { holdAfter: 0 });
    await card.getByRole('button', { name: 'Try again' }).click();
    await until(page, 'what is tried again is remembered', () => sessionStorage.getItem('lamplight.download') !== null);
    await page.locator('.load-status').getByRole('button', { name: 'Cancel' }).click();
    await cancelled(page);
    server.clearFaults();
    assert.deepEqual(page.problems, []);
  });

  test('a download is asked for with its size, and refused with Escape', async () => {
    await page.locator('.welcome').getByRole('button', { name: /Download/ }).click();
    const dialog = page.getByRole('dialog', { name: /^Download SmolLM2.*\?$/ });
    await dialog.getByText(/^\d+ MB: fits$/).waitFor();
    assert.match(await dialog.innerText(), /Download\s+98\.4 MB[^]*From\s+127\.0\.0\.1:\d+[^]*apache-2\.0[^]*Room in this browser\s+about [\d.]+ GB/);
    assert.doesNotMatch(await dialog.innerText(), /costly/);
    await until(page, 'the keyboard is on Download', () => /^Download 98.4 MB$/.test(document.activeElement.textContent));
    assert.deepEqual(await accessibilityProblems(page), []);
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    await until(page, 'the keyboard is back on the offer', () => 'loadModel' in document.activeElement.dataset);
    // Of an address the server tells the size; a connection that costs is named.
    const paying = await browser.context.newPage();
    await paying.addInitScript(() => Object.defineProperty(navigator, 'connection', { value: { saveData: true } }));
    await paying.goto(`${server.origin}/?model=${encodeURIComponent(`${server.origin}${MODEL_URL}`)}`);
    await paying.locator('.welcome').getByRole('button', { name: 'Load', exact: true }).click();
    await paying.getByRole('dialog').getByRole('button', { name: 'Download 98.4 MB' }).waitFor();
    assert.match(await paying.getByRole('dialog').innerText(), /set to save data\. 98\.4 MB may be costly/);
    await paying.getByRole('button', { name: 'Not now' }).click();
    await paying.close();
    const sent = server.log.filter((entry) => entry.path === MODEL_URL).reduce((sum, entry) => sum + entry.sent, 0);
    assert.ok(sent < 16 * 1024 * 1024, `${sent} bytes were sent before anybody agreed`);
    assert.deepEqual(page.problems, []);
  });

  test('a download shows its progress; it can be cancelled and goes on', async () => {
    // Slow enough to be cancelled in the middle on a busy machine.
    server.fault(MODEL_URL, { bytesPerSecond: 3_000_000 });
    await download(page);
    const status = page.locator('.load-status');
    await status.getByRole('button', { name: 'Cancel' }).waitFor();
    await until(page, 'the keyboard is on Cancel', () => document.activeElement.textContent === 'Cancel');
    await status.getByText('Downloading weights').waitFor();
    await status.getByText(/MB of 98\.4 MB · .*MB\/s/).waitFor();
    await status.getByRole('button', { name: 'Cancel' }).click();
    await cancelled(page);
    await until(page, 'the keyboard is on Download', () => /^Download/.test(document.activeElement.textContent));
    assert.equal(await agreed(page), null);
    await download(page);
    // What was agreed to goes on by itself after a reload, from what is stored.
    await status.getByText('Downloading weights').waitFor();
    await until(page, 'two parts are stored', () => new Promise((resolve) => {
      indexedDB.open('lamplight').onsuccess = ({ target: { result: database } }) => {
        database.transaction('partInfo').objectStore('partInfo').count().onsuccess = ({ target }) => {
          database.close();
          resolve(target.result >= 2);
        };
      };
    }));
    server.clearFaults();
    server.clearLog();
    await page.reload();
    await ready(page);
    const again = server.log.filter((entry) => entry.path === MODEL_URL).reduce((sum, entry) => sum + entry.sent, 0);
    assert.ok(again < 98_400_000 - 2 * 16 * 1024 * 1024, `${again} bytes were sent again`);
    await until(page, 'the keyboard is in the composer', () => 'composer' in document.activeElement.dataset);
    assert.match(await page.locator('.model-chip').textContent(), /SmolLM2.*CPU/i);
    const panel = page.locator('[data-section="model"]');
    assert.match(await panel.textContent(), /llama, 30 layers/);
    assert.match(await panel.textContent(), /Q4_1/);
    assert.match(await panel.textContent(), /Licence\s*apache-2\.0/);
    assert.deepEqual(await accessibilityProblems(page), []);
    assert.deepEqual(page.problems, []);
  });

  test('a message streams a reply with its measurements, announced once it is finished', async () => {
    await page.getByLabel('Max. tokens').fill('24');
    await page.getByLabel('Max. tokens').press('Tab');
    await page.getByLabel('Seed').fill('7');
    await page.getByLabel('Seed').press('Tab');
    await send(page, 'Name the three primary colours.');
    await replied(page);
    const text = (await lastReply(page).locator('.markdown').innerText()).trim();
    assert.ok(text.length > 10, text);
    assert.match(await lastReply(page).locator('.readout').innerText(), /first token\s+[\d.,]+ m?s[^]*prefill\s+[\d.,]+ tok\/s[^]*decode\s+[\d.,]+ tok\/s/);
    await page.locator('[role="status"][aria-live="polite"]', { hasText: 'Lamplight: ' }).waitFor({ state: 'attached' });
    assert.match(await page.locator('.context-meter').innerText(), /of [\d,]+ tokens used/);
    assert.deepEqual(await accessibilityProblems(page), []);

    // The same seed says the same again, also when it is told where the time goes.
    const kernels = page.locator('[data-section="profile"]');
    await kernels.getByText('Kernel times').click();
    await kernels.getByLabel('Time the kernels of each reply').check();
    await page.getByRole('button', { name: 'Regenerate the reply' }).click();
    await page.locator('.message.reply[aria-busy]').waitFor();
    await replied(page);
    assert.equal((await lastReply(page).locator('.markdown').innerText()).trim(), text);
    assert.equal(await page.locator('.message').count(), 2);
    assert.match(await kernels.locator('table').innerText(), /Calls\s+Time\s+Share\s+Read\s+Of peak[^]*ffn_up\s+\d+\s+[\d.,]+ ms\s+[\d.]+ %\s+[\d.]+ [kM]?B\s+[\d.]+ %/);
    assert.deepEqual(await accessibilityProblems(page), []);
    await kernels.getByLabel('Time the kernels of each reply').uncheck();
    await kernels.getByText('Kernel times').click();
  });

  test('Escape stops a reply, what was written stays, and the chat goes on', async () => {
    await page.getByLabel('Max. tokens').fill('400');
    await page.getByLabel('Max. tokens').press('Tab');
    await send(page, 'Tell me a very long story about a lighthouse.');
    await lastReply(page).locator('.markdown.writing').waitFor();
    await page.getByRole('button', { name: 'Stop (Esc)' }).waitFor();
    await page.keyboard.press('Escape');
    await replied(page);
    await lastReply(page).getByText('Stopped').waitFor();
    assert.ok((await lastReply(page).locator('.markdown').innerText()).trim().length > 0);
    await page.getByLabel('Max. tokens').fill('8');
    await page.getByLabel('Max. tokens').press('Tab');
    await send(page, 'Thank you.');
    await replied(page);
    assert.equal(await page.locator('.message').count(), 6);
    await page.getByRole('button', { name: 'New chat' }).click();
    await ready(page);
    assert.equal(await page.locator('.message').count(), 0);
    assert.deepEqual(page.problems, []);
  });

  test('a download that takes the place of a loaded model goes on after a reload as well', async () => {
    const other = `${server.origin}/models/other.gguf`;
    server.fault('/models/other.gguf', { holdAfter: 0 });
    await page.getByText('Load another model').click();
    const field = page.locator('#panel').getByLabel(/^Address of a GGUF file/);
    await field.fill(other);
    await field.press('Enter');
    await page.getByRole('dialog').getByRole('button', { name: /^(Download|Try all the same)/ }).click();
    await page.locator('.load-status').getByRole('button', { name: 'Cancel' }).waitFor();
    assert.match(await agreed(page), /other\.gguf/);
    await page.locator('.load-status').getByRole('button', { name: 'Cancel' }).click();
    server.clearFaults();
    await page.reload();
    await ready(page);
  });

  test('it opens and chats without a network: page and model come from the browser', async () => {
    await page.getByText('Ready for offline use').waitFor();
    server.setOnline(false);
    server.clearLog();
    await page.reload();
    await ready(page);
    assert.match(await page.locator('[data-section="model"]').innerText(), /from this browser’s storage/);
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/models/')), []);
    await send(page, 'Hello.');
    await replied(page);
    assert.ok((await lastReply(page).locator('.markdown').innerText()).trim().length > 0);
    server.setOnline(true);
  });

  test('on a phone nothing is wider than the screen, and the drawer holds the keyboard', async () => {
    await page.setViewportSize({ width: 360, height: 720 });
    const wide = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(await wide(), 0);
    const toggle = page.getByRole('button', { name: 'Model and settings' });
    await toggle.click();
    await until(page, 'the page behind the drawer is inert', () => document.querySelector('main').inert);
    await until(page, 'the keyboard is in the drawer', () => document.querySelector('#panel').contains(document.activeElement));
    assert.equal(await wide(), 0);
    assert.deepEqual(await accessibilityProblems(page), []);
    await page.keyboard.press('Escape');
    await until(page, 'the keyboard is back on the toggle', () => document.activeElement.classList.contains('panel-toggle'));
    await page.setViewportSize({ width: 1280, height: 820 });
  });

  test('a second tab shares the engine of the first', async () => {
    const other = await visit(browser, `${server.origin}/`);
    await ready(other);
    // The worker that listed the models ends when it is idle; there is none with an engine.
    for (let tries = 0; other.workers().length > 0; tries++) {
      assert.ok(tries < 600, 'the second tab has an engine of its own');
      await other.waitForTimeout(50);
    }
    await other.getByLabel('Max. tokens').fill('8');
    await send(other, 'Hello.');
    await replied(other);
    assert.ok((await lastReply(other).locator('.markdown').innerText()).trim().length > 0);
    assert.deepEqual(other.problems, []);
    await other.close();
  });

  test('the storage manager checks and pins models, and shows how full the storage is', async () => {
    const stored = page.locator('[data-section="cache"]');
    assert.match(await stored.innerText(), /98\.4 MB · [^]*98\.4 MB in all[^]*Storage\s+[\d.]+ MB of about [\d.]+ GB/);
    const check = stored.getByRole('button', { name: /^Check / });
    await check.click();
    await stored.getByText('All 6 parts are sound').waitFor();
    await until(page, 'the keyboard is on the check', () => /^Check /.test(document.activeElement.ariaLabel));
    const pin = stored.getByRole('button', { name: /^Pin / });
    assert.equal(await pin.getAttribute('aria-pressed'), 'false');
    await pin.click();
    await stored.locator('[aria-pressed="true"]').waitFor();
    assert.equal((await page.evaluate(() => new Promise((resolve) => {
      indexedDB.open('lamplight').onsuccess = ({ target }) => {
        target.result.transaction('models').objectStore('models').getAll().onsuccess = (event) => resolve(event.target.result[0].pinned);
      };
    }))), true);
    assert.deepEqual(await accessibilityProblems(page), []);
    assert.deepEqual(page.problems, []);
  });

  test('a stored model can be deleted, after a second question', async () => {
    const stored = page.locator('[data-section="cache"]');
    await stored.getByRole('button', { name: /^Delete .* from this browser$/ }).click();
    await stored.getByRole('button', { name: 'Delete', exact: true }).click();
    await stored.getByText('Nothing is stored yet').waitFor();
  });

  test('a file of the disk loads as it is, after the other model was unloaded', async () => {
    await page.getByRole('button', { name: 'New chat' }).click();
    await page.getByRole('button', { name: 'Unload' }).click();
    await page.locator('.welcome input[type="file"]').setInputFiles(MODEL_FILE);
    await ready(page);
    assert.match(await page.locator('[data-section="model"]').innerText(), /Kept for next time\s+no/);
    assert.deepEqual(page.problems, []);
  });
});

test('the page works under a sub-path of a host that sends no headers', async () => {
  const models = JSON.stringify({ models: [{ name: 'SmolLM2', url: 'weights/smollm2.gguf', bytes: 1, license: 'Apache-2.0' }] });
  const server = await startServer({
    mounts: { '/some/where/': WWW },
    files: { '/some/where/models.json': Buffer.from(models), '/some/where/weights/smollm2.gguf': MODEL_FILE },
  });
  const browser = await launch({ gpu: 'none' });
  try {
    const page = await visit(browser, `${server.origin}/some/where/index.html`);
    await download(page);
    await ready(page);
    assert.match(await page.locator('[data-section="model"]').innerText(), /Apache-2\.0/);
    assert.deepEqual(server.log.filter((entry) => entry.status >= 400), []);
    assert.deepEqual(page.problems, []);
  } finally {
    await browser.close();
    await server.close();
  }
});

test('where WebGPU works the page takes it, says so, and chats', async () => {
  const server = await startServer({ app: { root: WWW, models: [MODEL_FILE] } });
  const browser = await launch({ gpu: 'lavapipe' });
  try {
    const page = await visit(browser, `${server.origin}/`);
    await download(page);
    await ready(page);
    assert.match(await page.locator('.model-chip').innerText(), /WebGPU/);
    const device = await page.locator('[data-section="device"]').innerText();
    assert.match(device, /Running on\s+WebGPU[^]*self-check/);
    assert.match(device, /16-bit floats \(shader-f16\)\s+yes[^]*Largest binding\s+128 MiB/);
    await page.getByLabel('Max. tokens').fill('8');
    await page.getByLabel('Max. tokens').press('Tab');
    await send(page, 'Hello.');
    await replied(page);
    assert.ok((await lastReply(page).locator('.markdown').innerText()).trim().length > 0);
    // Another backend is offered, and taken from the store.
    server.clearLog();
    await page.locator('[data-section="model"]').getByRole('radio', { name: 'CPU' }).check();
    await page.getByRole('button', { name: 'Reload the model to switch' }).click();
    await page.locator('.chip-backend.cpu').waitFor();
    assert.deepEqual(server.log.filter((entry) => entry.path.startsWith('/models/')), []);
    assert.equal(await page.locator('.message').count(), 2, 'the conversation outlives the change');
    assert.deepEqual(page.problems, []);
  } finally {
    await browser.close();
    await server.close();
  }
});
