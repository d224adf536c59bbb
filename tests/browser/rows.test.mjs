// The table of faults in README.md: no row without a test, and no test there that is not.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

const HERE = import.meta.dirname;
const ROWS = [...Array.from({ length: 27 }, (_, index) => index + 1), 47, 51, 52, 57, 59];

/** Titles of a file's tests as they stand there, and those of a test that is made for several values. */
function titles(name) {
  const source = fs.readFileSync(path.join(HERE, `${name}.test.mjs`), 'utf8');
  return [...source.matchAll(/\btest\((['`])(.*?)\1, /g)].map(([, , title]) => (
    new RegExp(`^${title.replaceAll("\\'", "'").replace(/\$\{[^}]*\}|[\\^$.*+?()[\]{}|]/g, (found) => (found.startsWith('${') ? '.+' : `\\${found}`))}$`)
  ));
}

test('every fault has its tests, and they exist', () => {
  const table = fs.readFileSync(path.join(HERE, 'README.md'), 'utf8').split('\n').map((line) => /^\| (\d+) \| .* \| (.*) \|$/.exec(line)).filter(Boolean);
  assert.deepEqual(table.map(([, row]) => Number(row)), ROWS);
  for (const [, row, cell] of table) {
    const named = cell.split(/; (?=[a-z-]+: )/).map((text) => /^([a-z-]+): (.*)$/.exec(text));
    assert.ok(named.length > 0 && named.every(Boolean), `row ${row}`);
    for (const [, file, title] of named) assert.ok(titles(file).some((known) => known.test(title)), `row ${row}: ${file} has no test '${title}'`);
  }
});
