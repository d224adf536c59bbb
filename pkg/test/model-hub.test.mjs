// Addresses of a model hub, and which of a repository's files is taken.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseFile, hubAddress } from '../dist/model-hub.js';

const GB = 1e9;
const files = (...entries) => entries.map(([path, size]) => ({ path, size }));

test('addresses are read, and bad ones refused with the form that is meant', () => {
  assert.equal(hubAddress('https://host/m.gguf'), undefined);
  assert.equal(hubAddress(new URL('https://host/')), undefined);
  assert.deepEqual(hubAddress('hf:o/r'), { repo: 'o/r', path: '', revision: 'main' });
  assert.deepEqual(hubAddress('hf:o/r.GGUF/sub/m-Q4_0.gguf@refs/pr/1'), { repo: 'o/r.GGUF', path: 'sub/m-Q4_0.gguf', revision: 'refs/pr/1' });
  assert.deepEqual(hubAddress('hf://o/r/m.gguf@v1'), { repo: 'o/r', path: 'm.gguf', revision: 'v1' });
  for (const bad of ['hf:', 'hf:o', 'hf:o/r/../../x', 'hf:../r', 'hf:o/r@', 'hf:o/r@../x', 'hf:o/r?x=1']) {
    assert.throws(() => hubAddress(bad), { code: 'invalid-request', field: 'model' }, bad);
  }
});

test('of several quantisations the usual one is taken if it fits, else the best that does', () => {
  const repo = files(['README.md', 1], ['m-Q2_K.gguf', 1 * GB], ['m-Q4_K_M.gguf', 2 * GB], ['m-Q8_0.gguf', 4 * GB], ['m-F16.gguf', 8 * GB], ['mmproj-m-f16.gguf', 100]);
  const address = { repo: 'o/r', path: '', revision: 'main' };
  assert.equal(chooseFile(repo, address, 100 * GB), 'm-Q4_K_M.gguf');
  assert.equal(chooseFile(repo, address, 2 * GB), 'm-Q2_K.gguf');
  assert.throws(() => chooseFile(repo, address, 0.5 * GB), ({ code, message }) => code === 'out-of-memory' && /m-Q2_K\.gguf/.test(message));
  assert.equal(chooseFile(repo, { ...address, path: 'm-F16.gguf' }, 0.5 * GB), 'm-F16.gguf', 'a file that is named is taken');
});

test('a model in several files counts as a whole, by its first file; folders are told from files', () => {
  const address = { repo: 'o/r', path: '', revision: 'main' };
  const split = files(['q/m-Q4_K_M-00001-of-00002.gguf', 2 * GB], ['q/m-Q4_K_M-00002-of-00002.gguf', 2 * GB], ['q/m-Q3_K_M.gguf', 3 * GB]);
  assert.equal(chooseFile(split, address, 10 * GB), 'q/m-Q4_K_M-00001-of-00002.gguf');
  assert.equal(chooseFile(split, address, 4 * GB), 'q/m-Q3_K_M.gguf');
  assert.equal(chooseFile(files(['config.json', 1], ['model.safetensors', GB]), address, GB), '');
  assert.equal(chooseFile(files(['sub/config.json', 1], ['sub/model.safetensors', GB]), { ...address, path: 'sub' }, GB), 'sub/');
  assert.throws(() => chooseFile(files(['a.bin', 1]), address, GB), { code: 'not-a-model' });
});
