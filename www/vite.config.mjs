// Builds the demo into static files that run under any path of any host.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { defineConfig } from 'vite';
import { headerPolicy, metaPolicy } from './csp.mjs';

/** Security headers for hosts that read a `_headers` file (Netlify, Cloudflare Pages); README.md has nginx's. */
const HEADERS = `/*
  Content-Security-Policy: ${headerPolicy}
  X-Content-Type-Options: nosniff
  Referrer-Policy: no-referrer
  Permissions-Policy: camera=(), microphone=(), geolocation=()

/assets/*
  Cache-Control: public, max-age=31536000, immutable
`;

/** The policy as a meta tag and as `_headers`. Only in builds: the development server needs inline styles. */
function contentSecurityPolicy() {
  return {
    name: 'lamplight-csp',
    apply: 'build',
    // After the charset, which must come early, and before anything that loads.
    transformIndexHtml: (html) => html.replace(
      '<meta charset="utf-8">',
      (charset) => `${charset}\n    <meta http-equiv="Content-Security-Policy" content="${metaPolicy}">`,
    ),
    generateBundle() {
      this.emitFile({ type: 'asset', fileName: '_headers', source: HEADERS });
    },
  };
}

/** Puts the list of built files into `service-worker.js`, so that the page itself opens without a network. */
function offlineShell() {
  return {
    name: 'lamplight-offline-shell',
    apply: 'build',
    enforce: 'post',
    async generateBundle(_options, bundle) {
      const files = Object.keys(bundle).filter((name) => name.startsWith('assets/')).sort();
      const template = await readFile(new URL('./src/service-worker.js', import.meta.url), 'utf8');
      const version = createHash('sha256').update(template).update(files.join()).digest('hex').slice(0, 12);
      const source = template
        .replace("'__VERSION__'", JSON.stringify(version))
        .replace("['__FILES__']", JSON.stringify(files));
      this.emitFile({ type: 'asset', fileName: 'service-worker.js', source });
    },
  };
}

/** The licences of what the built page contains, as they ask for. */
function thirdPartyLicences() {
  const packages = ['dompurify', 'marked', '@fontsource-variable/inter'];
  return {
    name: 'lamplight-licences',
    apply: 'build',
    async generateBundle() {
      const require = createRequire(import.meta.url);
      const texts = await Promise.all(packages.map(async (name) => {
        const manifest = findPackage(require, name);
        const { version, license } = JSON.parse(await readFile(manifest, 'utf8'));
        const text = await readFile(path.join(path.dirname(manifest), 'LICENSE'), 'utf8');
        return `${name} ${version} (${license})\n\n${text.trim()}\n`;
      }));
      this.emitFile({ type: 'asset', fileName: 'licences.txt', source: texts.join(`\n${'-'.repeat(80)}\n\n`) });
    },
  };
}

/** A package's manifest, also where its `exports` hide it. */
function findPackage(require, name) {
  const found = require.resolve.paths(name).map((folder) => path.join(folder, name, 'package.json')).find((file) => existsSync(file));
  if (!found) throw new Error(`${name} is not installed: run npm install in the repository's root`);
  return found;
}

export default defineConfig({
  base: './',
  plugins: [contentSecurityPolicy(), offlineShell(), thirdPartyLicences()],
  // The package brings a worker and a wasm file by URL: bundling it in advance would lose them.
  optimizeDeps: { exclude: ['lamplight'] },
  worker: { format: 'es' },
  server: { fs: { allow: ['..'] } },
  build: {
    outDir: 'dist',
    target: 'es2023',
    // The policy allows no data: fonts, scripts or workers, so nothing is inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The demo model can lie in public/: do not print or measure it.
    reportCompressedSize: false,
  },
});
