// Builds the npm package into pkg/dist: core (cargo, wasm-bindgen, wasm-opt) and page side (tsc).
//   node pkg/build.mjs            everything
//   node pkg/build.mjs --ts       page side only (the core in dist stays)
//   node pkg/build.mjs --dev      with cargo's dev profile and without wasm-opt: a larger and slower core, sooner
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const pkg = path.dirname(fileURLToPath(import.meta.url));
const root = path.dirname(pkg);
const dist = path.join(pkg, 'dist');
const args = new Set(process.argv.slice(2));
const require = createRequire(import.meta.url);

function run(command, params, why) {
  console.log(`[build] ${why}: ${path.basename(command)} ${params.join(' ')}`);
  try {
    execFileSync(command, params, { cwd: root, stdio: 'inherit' });
  } catch (error) {
    if (error.code === 'ENOENT') fail(`${command} is not installed; run \`make setup\` first`);
    fail(`${path.basename(command)} failed`);
  }
}

function fail(message) {
  console.error(`[build] ${message}`);
  process.exit(1);
}

/** The wasm-bindgen tool must be of exactly the version of the crate, or its glue does not fit the module. */
function checkBindgen() {
  const wanted = /wasm-bindgen = "=([\d.]+)"/.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8'))[1];
  let found = 'not installed';
  try {
    found = execFileSync('wasm-bindgen', ['--version'], { encoding: 'utf8' }).trim().split(' ').pop();
  } catch { /* reported below */ }
  if (found !== wanted) {
    fail(`wasm-bindgen is ${found}, the crate needs ${wanted}: cargo install wasm-bindgen-cli --version ${wanted}`);
  }
}

/** Runs a program of an npm package with this very Node, so that nothing depends on PATH. */
function runNpm(packageName, program, params, why) {
  const manifest = require.resolve(`${packageName}/package.json`);
  const bin = JSON.parse(readFileSync(manifest, 'utf8')).bin[program];
  run(process.execPath, [path.join(path.dirname(manifest), bin), ...params], why);
}

function buildCore() {
  checkBindgen();
  const target = 'wasm32-unknown-unknown';
  const dev = args.has('--dev');
  run('cargo', ['build', '--profile', dev ? 'dev' : 'web', '--target', target, '--lib'], 'compile the core');
  const targetDir = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
  const raw = path.join(targetDir, target, dev ? 'debug' : 'web', 'lamplight.wasm');
  run('wasm-bindgen', [
    '--target', 'web', '--out-name', 'lamplight', '--out-dir', dist, '--no-typescript', '--remove-producers-section', raw,
  ], 'write the JS glue');
  if (dev) return;
  const wasm = path.join(dist, 'lamplight_bg.wasm');
  // Only what every supported engine has; relaxed SIMD and threads stay off.
  // Sorted by name, the instances of one generic function lie side by side, where gzip's window of 32 kB finds them alike:
  // 34 kB less to download, and 65 kB more where functions with one caller are not put into that. Names go last.
  runNpm('binaryen', 'wasm-opt', [
    '-O3', '--converge', '--one-caller-inline-max-function-size', '0', '--enable-simd', '--enable-bulk-memory', '--enable-bulk-memory-opt', '--enable-nontrapping-float-to-int',
    '--enable-sign-ext', '--enable-mutable-globals', '--enable-reference-types', '--enable-multivalue',
    '--reorder-functions-by-name', '--strip-debug', '--strip-producers', wasm, '-o', wasm,
  ], 'optimise the core');
}

mkdirSync(dist, { recursive: true });
// Files of sources that are gone must not be shipped; the core is kept where only the page side is built.
const core = /^lamplight(_bg\.wasm|\.js)$/;
for (const name of readdirSync(dist)) {
  if (!(args.has('--ts') && core.test(name))) rmSync(path.join(dist, name), { recursive: true });
}
if (!args.has('--ts')) buildCore();
runNpm('typescript', 'tsc', ['-p', path.join(pkg, 'tsconfig.json')], 'compile the page side');
if (!existsSync(path.join(dist, 'lamplight_bg.wasm')) || statSync(path.join(dist, 'lamplight_bg.wasm')).size === 0) {
  console.log('[build] note: dist holds no core yet; run without --ts');
}
run(process.execPath, [path.join(root, 'scripts', 'size.mjs'), '--report'], 'sizes');
