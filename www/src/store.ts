/** What the page remembers between visits: a few small settings, never a conversation. */

/** Reads a JSON value; `fallback` when there is none, or when storage is blocked. */
export function remembered<T>(key: string, fallback: T): T {
  try {
    const text = localStorage.getItem(`lamplight.${key}`);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

/** Keeps a JSON value, or forgets it when `undefined`. */
export function remember(key: string, value: unknown): void {
  try {
    if (value === undefined) localStorage.removeItem(`lamplight.${key}`);
    else localStorage.setItem(`lamplight.${key}`, JSON.stringify(value));
  } catch {
    // Storage is blocked or full: the setting holds for this visit only.
  }
}
