// Fails when what a page downloads is over budget: the core wasm, and the JavaScript that runs on the page.
// `--report` only prints. Sizes are those of `gzip -9`, as static hosts serve them: the zlib inside Node looks for four equal
// bytes where gzip looks for three, and makes 2 % more of the core.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const dist = path.join(path.dirname(import.meta.dirname), 'pkg', 'dist');
const gzip = (file) => execFileSync('gzip', ['-9', '-c', path.join(dist, file)], { maxBuffer: 1 << 26 }).length;
const isScript = (file) => /\.m?js$/.test(file);
if (!fs.existsSync(dist)) {
  console.error('pkg/dist is missing: run `make build` first');
  process.exit(1);
}

// The worker's script, what it imports and the wasm glue load inside the worker; everything else that is JavaScript runs on the page.
const files = fs.readdirSync(dist, { recursive: true }).map(String).filter((file) => isScript(file) || file.endsWith('.wasm'));
const inWorker = (file) => /^(worker|pool|link|origin-files|kernel-clock|kept|gpu-features|pipelines-ahead|lamplight)\.m?js$/.test(file);
const groups = [
  { name: 'core wasm', budget: 1_000_000, files: files.filter((file) => file.endsWith('.wasm')) },
  { name: 'page-side JavaScript', budget: 60_000, files: files.filter((file) => isScript(file) && !inWorker(file)) },
  { name: 'worker JavaScript', budget: Infinity, files: files.filter(inWorker) },
];
let over = false;
for (const { name, budget, files: members } of groups) {
  const total = members.reduce((sum, file) => sum + gzip(file), 0);
  const limit = budget === Infinity ? 'no budget' : `budget ${budget}`;
  console.log(`${name}: ${total} bytes gzip (${limit}): ${members.join(', ') || 'nothing'}`);
  // No file at all is a broken build, not a small one.
  if (total > budget || members.length === 0) over = true;
}
if (over && !process.argv.includes('--report')) {
  console.error('over budget, or something is missing from pkg/dist');
  process.exit(1);
}
