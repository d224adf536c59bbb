// The server behind `make demo`: headers from `_headers`, ranges, the model list, and nothing outside its folder.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createServer, parseHeaders, parseRange } from '../../scripts/serve.mjs';

test('ranges', () => {
  const cases = [
    ['bytes=0-3', [0, 3]], ['bytes=4-', [4, 9]], ['bytes=-2', [8, 9]], ['bytes=8-99', [8, 9]], ['bytes=-99', [0, 9]],
    ['bytes=10-', undefined], ['bytes=5-4', undefined], ['bytes=-', null], ['bytes=0-1,3-4', null], [undefined, null],
  ];
  for (const [header, expected] of cases) assert.deepEqual(parseRange(header, 10), expected, header);
});

test('header rules apply to the paths they match, in order', () => {
  const headersFor = parseHeaders('# comment\n/*\n  A: 1\n  B: x: y\n\n/assets/*\n  C: 2\n/a.b\n  D: 3\n');
  assert.deepEqual(headersFor('/'), [['A', '1'], ['B', 'x: y']]);
  assert.deepEqual(headersFor('/assets/x.js'), [['A', '1'], ['B', 'x: y'], ['C', '2']]);
  assert.deepEqual(headersFor('/aXb').length, 2);
});

describe('the server', () => {
  let root, server, port;
  before(async () => {
    root = fs.mkdtempSync(path.join(os.tmpdir(), 'lamplight-serve-'));
    fs.mkdirSync(path.join(root, 'site'));
    fs.writeFileSync(path.join(root, 'secret.txt'), 'secret');
    fs.writeFileSync(path.join(root, 'my model (1).gguf'), '0123456789');
    fs.writeFileSync(path.join(root, 'site/index.html'), '<p>page');
    fs.writeFileSync(path.join(root, 'site/_headers'), "/*\n  Content-Security-Policy: default-src 'self'\n");
    server = createServer(path.join(root, 'site'), [path.join(root, 'my model (1).gguf')]);
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    port = server.address().port;
  });
  after(() => {
    server.close();
    server.closeAllConnections();
    fs.rmSync(root, { recursive: true });
  });

  /** The path goes out as it is: `fetch` would tidy it. */
  const get = (target, { method = 'GET', headers = {} } = {}) => new Promise((resolve, reject) => {
    http.request({ port, method, path: target, headers, host: '127.0.0.1' }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text) => { body += text; }).on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    }).on('error', reject).end();
  });

  test('serves the page with the headers it ships', async () => {
    const { status, headers, body } = await get('/');
    assert.equal(status, 200);
    assert.equal(body, '<p>page');
    assert.match(headers['content-type'], /^text\/html/);
    assert.equal(headers['content-security-policy'], "default-src 'self'");
  });

  test('lists the model and serves it whole and in ranges', async () => {
    const { models } = JSON.parse((await get('/models.json')).body);
    assert.deepEqual(models, [{ name: 'my model (1)', url: 'models/my%20model%20(1).gguf', bytes: 10 }]);
    assert.equal((await get(`/${models[0].url}`)).body, '0123456789');
    const part = await get(`/${models[0].url}`, { headers: { range: 'bytes=2-4' } });
    assert.deepEqual([part.status, part.body, part.headers['content-range']], [206, '234', 'bytes 2-4/10']);
    assert.equal((await get(`/${models[0].url}`, { headers: { range: 'bytes=10-' } })).status, 416);
    assert.equal((await get(`/${models[0].url}`, { method: 'HEAD' })).headers['content-length'], '10');
  });

  test('serves nothing outside of its folder, and survives odd paths', async () => {
    for (const target of ['/../secret.txt', '/..%2fsecret.txt', '/%2e%2e/secret.txt', '//secret.txt', '/%E0%A4%A', '/a%00b', '/_headers', '/none']) {
      const { status, body } = await get(target);
      assert.equal(status, 404, target);
      assert.doesNotMatch(body, /secret|Policy/);
    }
    assert.equal((await get('/', { method: 'POST' })).status, 405);
    assert.equal((await get('/')).status, 200);
  });
});
