/**
 * The page's `default` Trusted Types policy. The page runs under `require-trusted-types-for 'script'`: no code can
 * turn a string into HTML or into a script, and a worker's address must be of this origin. The engine package makes
 * its worker with the plain `new Worker(new URL(…))` that bundlers know; the browser asks this policy about it.
 * HTML strings have no entry here: only DOMPurify's own policy makes HTML.
 */

interface PolicyFactory {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): unknown;
}

/** Call before anything makes a worker. Browsers without Trusted Types skip it. */
export function installTrustedTypesPolicy(): void {
  const factory = (globalThis as { trustedTypes?: PolicyFactory }).trustedTypes;
  factory?.createPolicy('default', {
    createScriptURL(url) {
      if (new URL(url, document.baseURI).origin === location.origin) return url;
      throw new TypeError(`Lamplight: a script of another origin was refused: ${url}`);
    },
  });
}
