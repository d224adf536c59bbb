/** What the page remembers between visits: a few small settings, never a conversation. */

/** Between visits, or only in this tab while it lasts (reloads included). */
export type Scope = 'visits' | 'tab';
const areas: Record<Scope, () => Storage> = { visits: () => localStorage, tab: () => sessionStorage };

/** Reads a JSON value; `fallback` when there is none, or when storage is blocked. */
export function remembered<T>(key: string, fallback: T, scope: Scope = 'visits'): T {
  try {
    const text = areas[scope]().getItem(`lamplight.${key}`);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

/** Keeps a JSON value, or forgets it when `undefined`. */
export function remember(key: string, value: unknown, scope: Scope = 'visits'): void {
  try {
    if (value === undefined) areas[scope]().removeItem(`lamplight.${key}`);
    else areas[scope]().setItem(`lamplight.${key}`, JSON.stringify(value));
  } catch {
    // Storage is blocked or full: the setting holds for this visit only.
  }
}
