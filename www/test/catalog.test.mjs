// Offers, addresses and what of them is stored under which name.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { transformWithOxc } from 'vite';

const source = new URL('../src/catalog.ts', import.meta.url);
const { code } = await transformWithOxc(await readFile(source, 'utf8'), source.pathname);
const { findOffer, findStored, storedName } = await import(`data:text/javascript,${encodeURIComponent(code)}`);

const stored = (key, complete = true) => ({ key, complete });

test('what is stored of an address is found by its key', () => {
  const entries = [stored('https://h/m.gguf'), stored('hf:o/r/m-Q4_0.gguf@main', false), stored('hf:o/r/m-Q8_0.gguf@main'), stored('hf:o/folder/@v1')];
  const found = (address) => findStored(address, entries)?.key;
  assert.equal(found('https://h/m.gguf?token=1#x'), 'https://h/m.gguf');
  assert.equal(found('https://h/other.gguf'), undefined);
  assert.equal(found('hf:o/r'), 'hf:o/r/m-Q8_0.gguf@main', 'of a repository, the model that is complete');
  assert.equal(found('hf:o/r/m-Q4_0.gguf'), 'hf:o/r/m-Q4_0.gguf@main');
  assert.equal(found('hf:o/r@v1'), undefined, 'another revision');
  assert.equal(found('hf:o/folder@v1'), 'hf:o/folder/@v1');
});

test('an offer is found by its address and by what it is called in storage', () => {
  const catalog = [{ name: 'a', url: 'https://h/m.gguf' }, { name: 'b', url: 'hf:o/r' }];
  const found = (address) => findOffer(address, catalog)?.name;
  assert.deepEqual(['https://h/m.gguf?sig=2', 'hf:o/r', 'hf:o/r/m-Q8_0.gguf@main', 'hf:o/r2'].map(found), ['a', 'b', 'b', undefined]);
});

test('a stored model is named by its file', () => {
  assert.equal(storedName('https://h/d/m%20a.gguf', 'x'), 'm a');
  assert.equal(storedName('hf:o/r/d/m-Q8_0.gguf@refs/pr/1', 'x'), 'm-Q8_0');
  assert.equal(storedName('hf:o/r/@main', 'the name in the file'), 'the name in the file');
});
