/** What the browser gives this site for its models, and whether it may take it back. Only pages can ask. */
import type { StorageState } from './types.js';

/** `undefined` where the browser does not say: an opaque origin (a sandboxed frame) may not even ask. */
export async function storageState(): Promise<StorageState | undefined> {
  try {
    const manager = globalThis.navigator?.storage as StorageManager | undefined;
    if (!manager?.estimate) return undefined;
    const [{ usage = 0, quota = 0 }, persisted] = await Promise.all([manager.estimate(), manager.persisted?.() ?? false]);
    return { usageBytes: usage, quotaBytes: quota, persisted };
  } catch {
    return undefined;
  }
}

/** Asks the browser not to evict this site's data when space runs short, unless it has agreed before. */
export async function persist(): Promise<boolean> {
  try {
    const manager = globalThis.navigator?.storage as StorageManager | undefined;
    return ((await manager?.persisted?.()) || (await manager?.persist?.())) ?? false;
  } catch {
    // A page that may not ask is a page whose models may be evicted; they are fetched again then.
    return false;
  }
}
