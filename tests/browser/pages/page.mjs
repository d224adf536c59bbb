// The page that the browser tests drive: holds the package as a user's page would, and notes policy violations.
document.addEventListener('securitypolicyviolation', (event) => {
  console.error(`CSP: ${event.violatedDirective} blocked ${event.blockedURI || 'inline'} ${event.sample}`);
});

globalThis.lamplight = await import('/pkg/index.js');
globalThis.ready = true;
