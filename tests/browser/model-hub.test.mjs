// Models by their address at a hub: a local server speaks the hub's API and answers files by redirects with signatures that run out.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import { after, describe, test } from 'node:test';
import {
  MODEL_BYTES, MODEL_FILE, NOTHING_HELD, PARIS, PART_BYTES, around, assertLedger, assertNoProblems, forget, ledger, load, loadError, recovers,
  says, withDatabase,
} from './harness.mjs';

const SHA256 = createHash('sha256').update(fs.readFileSync(MODEL_FILE)).digest('hex');
const REPO = 'someone/Small-GGUF';
const FILE = 'small-Q4_K_M.gguf';
const TOKEN = 'hf_secret';

/** A hub of repositories `{ files: [{ path, size, lfs }], gated }`; every file's bytes are the test model's. */
async function startHub(repositories) {
  const log = [];
  // A signature is good for so many requests.
  const state = { uses: Infinity, signature: 0, used: 0 };
  const allow = { 'Access-Control-Allow-Origin': '*', 'Access-Control-Allow-Headers': 'authorization, range', 'Access-Control-Expose-Headers': 'content-range, etag, link' };
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://hub');
    const entry = { method: request.method, path: url.pathname, token: request.headers.authorization ?? null, status: 200 };
    if (request.method !== 'OPTIONS') log.push(entry);
    const answer = (status, body = '', headers = {}) => {
      entry.status = status;
      response.writeHead(status, { ...allow, ...headers }).end(body);
    };
    if (request.method === 'OPTIONS') return answer(204);
    const [, api, resolved] = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/main$|^\/([^/]+\/[^/]+)\/resolve\/main\//.exec(url.pathname) ?? [];
    const repository = repositories[api ?? resolved];
    if (repository?.gated && entry.token !== `Bearer ${TOKEN}`) return answer(401, '{"error":"gated"}');
    if (api && repository) {
      // Two files a page, to be followed by the Link header.
      const from = Number(url.searchParams.get('cursor') ?? 0);
      const page = repository.files.slice(from, from + 2).map((file) => ({ type: 'file', ...file }));
      const link = from + 2 < repository.files.length ? { Link: `<http://${request.headers.host}${url.pathname}?recursive=true&cursor=${from + 2}>; rel="next"` } : {};
      return answer(200, JSON.stringify(page), { 'Content-Type': 'application/json', ...link });
    }
    if (resolved && repository) {
      if (state.used >= state.uses) [state.signature, state.used] = [state.signature + 1, 0];
      return answer(302, '', { Location: `/cdn/model?signature=${state.signature}` });
    }
    if (url.pathname === '/cdn/model') {
      if (url.searchParams.get('signature') !== String(state.signature) || state.used >= state.uses) return answer(403, 'expired');
      state.used += 1;
      const [, first, last] = /bytes=(\d+)-(\d+)/.exec(request.headers.range) ?? [];
      const [from, to] = [Number(first), Math.min(Number(last), MODEL_BYTES - 1)];
      entry.status = 206;
      response.writeHead(206, { ...allow, 'Content-Type': 'application/octet-stream', 'Content-Length': to - from + 1, 'Content-Range': `bytes ${from}-${to}/${MODEL_BYTES}` });
      return fs.createReadStream(MODEL_FILE, { start: from, end: to }).pipe(response);
    }
    return answer(404, '{"error":"Repository not found"}');
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    url: `http://127.0.0.1:${server.address().port}`, log, state,
    close: () => new Promise((done) => { server.close(done); server.closeAllConnections(); }),
  };
}

const weights = (path, oid = SHA256) => ({ path, size: MODEL_BYTES, lfs: { oid, size: MODEL_BYTES } });
const large = (path) => ({ path, size: 900e9, lfs: { oid: SHA256 } });

describe('a model hub', () => {
  let server, hub, page, base;
  around({}, async (started) => {
    ({ server, page } = started);
    hub = await startHub({
      [REPO]: { files: [{ path: 'README.md', size: 10 }, large('small-F16.gguf'), large('small-Q8_0.gguf'), weights(FILE), { path: '.gitattributes', size: 1 }] },
      'someone/Gated-GGUF': { gated: true, files: [weights(FILE)] },
      'someone/Wrong-GGUF': { files: [weights(FILE, SHA256.replace(/^./, (digit) => (digit === '0' ? '1' : '0')))] },
      'someone/Huge-GGUF': { files: [large('huge-Q4_K_M.gguf')] },
    });
  });
  after(() => hub?.close());
  const options = (model, more) => ({ model, backend: 'cpu', hub: hub.url, ...more });
  const list = () => page.evaluate(() => lamplight.models.list());

  test('a repository: the file that fits is picked, checked, and kept; the next load asks for nothing', async () => {
    const { info } = await load(page, options(`hf:${REPO}`));
    assert.equal(info.load.networkBytes, MODEL_BYTES);
    assert.equal(await says(page), PARIS);
    base = { text: await says(page, { tokens: 8 }), held: await ledger(page) };
    const [stored] = await list();
    assert.equal(stored.key, `hf:${REPO}/${FILE}@main`);
    assert.equal(stored.complete, true);
    for (const model of [`hf:${REPO}`, `hf:${REPO}/${FILE}`]) {
      hub.log.length = 0;
      const again = await load(page, options(model));
      assert.equal(again.info.load.fromCache, true);
      assert.deepEqual(hub.log, []);
    }
    // A mirror has the same files.
    const mirror = await load(page, { ...options(`hf:${REPO}/${FILE}@main`), hub: 'http://127.0.0.1:9' });
    assert.equal(mirror.info.load.fromCache, true);
  });

  test('a gated repository: without a token it says what to do, with one it works, and the token is not kept', async () => {
    await forget(page);
    const error = await loadError(page, options('hf:someone/Gated-GGUF'));
    assert.equal(error.code, 'http-status');
    assert.match(error.message, /hubToken/);
    hub.log.length = 0;
    await load(page, options('hf:someone/Gated-GGUF', { hubToken: TOKEN }));
    assert.equal(await says(page), PARIS);
    assert.ok(hub.log.filter(({ path }) => !path.startsWith('/cdn')).every(({ token }) => token === `Bearer ${TOKEN}`));
    const kept = await withDatabase(page, async (db, done) => (
      JSON.stringify([await done(db.transaction('models').objectStore('models').getAll()), { ...localStorage }])
    ));
    assert.ok(!kept.includes(TOKEN));
  });

  test('signatures that run out in the middle are asked for anew', async () => {
    await forget(page);
    hub.log.length = 0;
    hub.state.uses = 2;
    await recovers(page, options(`hf:${REPO}/${FILE}`), base);
    hub.state.uses = Infinity;
    assert.ok(hub.state.signature >= 2, 'no signature ran out');
  });

  test('a file that is not what the hub says is refused, and not kept', async () => {
    await forget(page);
    const error = await loadError(page, options('hf:someone/Wrong-GGUF'));
    assert.equal(error.code, 'integrity', error.message);
    assert.match(error.message, new RegExp(SHA256));
    const download = (model) => page.evaluate(([model, hub]) => lamplight.models.download(model, { hub }).then(({ key }) => key, ({ code }) => code), [model, hub.url]);
    assert.equal(await download('hf:someone/Wrong-GGUF'), 'integrity');
    await assertLedger(page, NOTHING_HELD);
    assert.equal(await download(`hf:${REPO}`), `hf:${REPO}/${FILE}@main`);
    hub.log.length = 0;
    assert.equal((await load(page, options(`hf:${REPO}`))).info.load.fromCache, true);
    assert.deepEqual(hub.log, []);
  });

  test('a hash that the page gives is checked as well, over resumed downloads too', async () => {
    const url = `${server.origin}/models/smollm2.gguf`;
    assert.equal((await loadError(page, { model: { url, sha256: '0'.repeat(64) }, backend: 'cpu' })).code, 'integrity');
    assert.equal((await loadError(page, { model: { url, sha256: 'abc' }, backend: 'cpu' })).code, 'invalid-request');
    server.fault('/models/smollm2.gguf', { status: 404, when: (entry) => new RegExp(`=${3 * PART_BYTES}-`).test(entry.range) });
    assert.equal((await loadError(page, { model: { url, sha256: SHA256 }, backend: 'cpu' })).code, 'http-status');
    server.clearFaults();
    const { info } = await load(page, { model: { url, sha256: SHA256.toUpperCase() }, backend: 'cpu' });
    assert.ok(info.load.networkBytes < MODEL_BYTES);
    assert.equal(await says(page), PARIS);
  });

  test('what is not there, or too large, is said so before anything is fetched', async () => {
    hub.log.length = 0;
    const expected = [
      ['hf:someone/Nothing', 'http-status', /no repository someone\/Nothing/],
      [`hf:${REPO}/other.gguf`, 'http-status', /it has .*small-Q4_K_M\.gguf/],
      ['hf:someone/Huge-GGUF', 'out-of-memory', /huge-Q4_K_M\.gguf/],
      ['hf:nonsense', 'invalid-request', /hf:owner\/repo/],
    ];
    for (const [model, code, message] of expected) {
      const error = await loadError(page, options(model));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
    }
    assert.ok(!hub.log.some(({ path }) => path.startsWith('/cdn')));
    assert.equal((await loadError(page, { ...options(`hf:other/Repo`), hub: 'http://127.0.0.1:9' })).code, 'network');
    page.problems = page.problems.filter((problem) => !/ERR_|CORS|Access-Control/.test(problem));
    assertNoProblems(page);
  });
});
