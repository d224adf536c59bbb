/** What the browser gives this site for its models: storage, and whether it may take it back; memory. Only pages can ask. */
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

let asked = false;

/** The same, at most once; `models.storage()` shows what the browser decided. */
export async function persistOnce(): Promise<void> {
  if (asked) return;
  asked = true;
  await persist();
}

/** Of the memory that a device says it has, what one page's model may take before the rest of the system suffers. */
const SHARE = 0.6;
/** Browsers do not say more than this, whatever there is. */
const MOST_TOLD_GIB = 8;
/** Taken where a browser says nothing. */
const USUAL_GIB = 4;

/** What the device says of its memory. */
export function deviceMemoryGib(): number | undefined {
  return (globalThis.navigator as { deviceMemory?: number } | undefined)?.deviceMemory;
}

/** Bytes of memory that a model may take on a device that says so many GiB, and whether that is a bound. */
export function memoryRoom(gib: number | undefined): { bytes: number; isBound: boolean } {
  return { bytes: (gib ?? USUAL_GIB) * 2 ** 30 * SHARE, isBound: gib !== undefined && gib < MOST_TOLD_GIB };
}
