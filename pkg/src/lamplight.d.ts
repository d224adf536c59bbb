/** The glue that wasm-bindgen writes into dist/ (`--target web`); only the worker imports it. */
export default function init(options?: { module_or_path: string | URL }): Promise<unknown>;
/** Registers the actor on the worker's message port. */
export function start(): void;
