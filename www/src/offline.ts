/** Keeps the page's own files for use without a network, once the visitor has loaded a model. */

/** Resolves to whether the page would open offline. Development servers have no service worker. */
export async function keepPageOffline(): Promise<boolean> {
  if (import.meta.env.DEV || !('serviceWorker' in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register('service-worker.js', { scope: './' });
    if (registration.active) return true;
    await navigator.serviceWorker.ready;
    return true;
  } catch {
    // Private windows and plain-http hosts refuse: the page works, but only online.
    return false;
  }
}

/** Whether an earlier visit has kept the page. */
export function isPageKept(): boolean {
  return 'serviceWorker' in navigator && navigator.serviceWorker.controller !== null;
}
