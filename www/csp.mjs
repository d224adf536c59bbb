// The page's Content-Security-Policy, in one place: vite.config.mjs writes it into the page's meta tag and into
// dist/_headers, so that the page and its worker obey the same words.

/** Directives that a meta tag can carry. */
const DIRECTIVES = {
  'default-src': ["'none'"],
  // The compiler of the engine's wasm; no 'unsafe-eval', no inline script.
  'script-src': ["'self'", "'wasm-unsafe-eval'"],
  'worker-src': ["'self'"],
  // Models come from any https host that the user names, or from a server on the same machine.
  'connect-src': ["'self'", 'https:', 'http://localhost:*', 'http://127.0.0.1:*', 'blob:'],
  'img-src': ["'self'", 'data:'],
  'style-src': ["'self'"],
  'font-src': ["'self'"],
  'manifest-src': ["'self'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'require-trusted-types-for': ["'script'"],
  // `default` admits same-origin script addresses only (src/trusted-types.ts); `dompurify` is the sanitiser's own.
  'trusted-types': ['default', 'dompurify'],
};

const join = (directives) =>
  Object.entries(directives).map(([name, values]) => [name, ...values].join(' ')).join('; ');

/** For `<meta http-equiv>`. */
export const metaPolicy = join(DIRECTIVES);

/** For the response header, which alone may forbid framing, and which alone binds the worker. */
export const headerPolicy = join({ ...DIRECTIVES, 'frame-ancestors': ["'none'"] });
