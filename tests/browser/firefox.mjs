// Several tabs in Firefox, on the CPU path: one download, one engine, and a takeover. Driven by plain WebDriver, since the driver
// package knows only a Firefox of its own. `node --test tests/browser/firefox.mjs`
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ISOLATION, MODEL_BYTES, MODEL_PATH, PART_BYTES, startPackageServer } from './harness.mjs';
import { freePort, openSession, processes } from './webdriver.mjs';

const CPU = { model: MODEL_PATH, backend: 'cpu' };
const COUNT = { prompt: 'One, two, three, four,', temperature: 1, seed: 11, max_tokens: 48 };

async function startFirefox() {
  const children = processes();
  const port = await freePort();
  children.start('geckodriver', [`--port=${port}`, `--websocket-port=${await freePort()}`, '--log=fatal']);
  const binary = process.env.FIREFOX_BIN || '/usr/bin/firefox-esr';
  const session = await openSession(port, { 'moz:firefoxOptions': { binary, args: ['-headless'] } });
  return { ...session, close: () => session.end().then(children.endAll) };
}

describe('Firefox, tabs', () => {
  let server, firefox;
  /** Opens the test page in a new tab and gives its handle. */
  const open = async () => {
    const handle = await firefox.newTab();
    await firefox.open(`${server.origin}/`);
    await firefox.run(async () => { while (!globalThis.ready) await new Promise((resolve) => { setTimeout(resolve, 20); }); });
    return handle;
  };
  const runIn = async (handle, fn, argument) => {
    await firefox.switchTo(handle);
    return firefox.run(fn, argument);
  };
  const closeTab = async (handle) => {
    await firefox.switchTo(handle);
    await firefox.closeTab();
  };
  // Firefox runs scripts in a scope of their own: what shall stay belongs to the window.
  const begin = (options) => {
    window.phases = [];
    window.loading = lamplight.createEngine({ ...options, onProgress: ({ phase }) => phases.push(phase) });
    loading.catch(() => undefined);
  };
  const loaded = async () => {
    window.engine = await loading;
    return { info: engine.info, phases };
  };
  let home;
  before(async () => {
    server = await startPackageServer();
    firefox = await startFirefox();
    home = await firefox.tab();
  });
  after(async () => {
    await firefox?.close();
    await server?.close();
  });

  test('two tabs that want a model cause one download', async (t) => {
    t.diagnostic(`Firefox ${firefox.version}`);
    server.fault(MODEL_PATH, { bytesPerSecond: 8e6 });
    const [a, b] = [await open(), await open()];
    await runIn(a, begin, CPU);
    await runIn(a, async () => { while (!phases.includes('downloading')) await new Promise((resolve) => { setTimeout(resolve, 20); }); });
    await runIn(b, begin, CPU);
    await runIn(b, async () => { while (!phases.includes('waiting')) await new Promise((resolve) => { setTimeout(resolve, 20); }); });
    server.clearFaults();
    const [first, second] = [await runIn(a, loaded), await runIn(b, loaded)];
    assert.equal(first.info.load.fromCache, false);
    assert.equal(second.info.load.fromCache, true);
    const sent = server.requests(MODEL_PATH).reduce((sum, entry) => sum + entry.sent, 0);
    assert.ok(sent < MODEL_BYTES + PART_BYTES, `${sent} bytes were sent`);
    for (const handle of [a, b]) await closeTab(handle);
    await firefox.switchTo(home);
  });

  test('when the tab with the engine is closed, another takes over and the text goes on', async () => {
    const [a, b] = [await open(), await open()];
    for (const handle of [a, b]) {
      await runIn(handle, begin, { ...CPU, shared: true });
      await runIn(handle, loaded);
    }
    const expected = await runIn(a, async (request) => (await engine.completions.create(request)).choices[0].text, COUNT);
    await runIn(b, async (request) => {
      window.text = '';
      window.streaming = (async () => {
        for await (const chunk of await engine.completions.create({ ...request, stream: true })) window.text += chunk.choices[0].text;
      })();
      streaming.catch(() => undefined);
      while (window.text.length < 8) await new Promise((resolve) => { setTimeout(resolve, 5); });
    }, COUNT);
    await closeTab(a);
    const text = await runIn(b, async () => {
      await streaming;
      return window.text;
    });
    assert.equal(text, expected);
  });
});

describe('Firefox, several workers', () => {
  for (const [exchange, headers] of [['messages', {}], ['shared', ISOLATION]]) {
    test(`two workers write what one writes, parts through ${exchange}`, async () => {
      const server = await startPackageServer({ headers });
      const firefox = await startFirefox();
      try {
        await firefox.open(`${server.origin}/`);
        const [one, two] = await firefox.run(async (options) => {
          while (!globalThis.ready) await new Promise((resolve) => { setTimeout(resolve, 20); });
          const texts = [];
          for (const threads of [1, 2]) {
            const engine = await lamplight.createEngine({ ...options, threads });
            const { choices } = await engine.completions.create({ prompt: 'One, two, three, four,', temperature: 0, max_tokens: 24 });
            texts.push({ threads: engine.info.threads, exchange: engine.info.exchange, text: choices[0].text });
            await engine.dispose();
          }
          return texts;
        }, CPU);
        assert.equal(one.threads, 1);
        assert.ok(one.text.length > 20);
        assert.deepEqual(two, { threads: 2, exchange, text: one.text });
      } finally {
        await firefox.close();
        await server.close();
      }
    });
  }
});
