/**
 * Lamplight runs open-weight language models inside a web page.
 * Importing this touches no browser global and holds no wasm: all work is done in a worker that `createEngine` starts.
 */
export { createEngine } from './engine.js';
export { fit } from './fit.js';
export { createModelCache, models } from './models.js';
export { capabilities } from './capabilities.js';
export type { DirectoryHandle } from './directory.js';
export * from './types.js';
