// The page that the browser tests drive: holds the package as a user's page would, and notes policy violations.
document.addEventListener('securitypolicyviolation', (event) => {
  console.error(`CSP: ${event.violatedDirective} blocked ${event.blockedURI || 'inline'} ${event.sample}`);
});

// Under Trusted Types an app admits the worker's address by a policy of its own; without the header this is never asked.
globalThis.trustedTypes?.createPolicy('default', {
  createScriptURL: (url) => (new URL(url, location.href).origin === location.origin ? url : null),
});

globalThis.lamplight = await import('/pkg/index.js');
globalThis.ready = true;
