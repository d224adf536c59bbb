// Runs before whatever is imported after it.
Object.defineProperty(globalThis, 'indexedDB', { get() { throw new DOMException('denied', 'SecurityError'); }, configurable: true });
