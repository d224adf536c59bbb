import type { endProfile, startProfile } from './kernel-clock.js';
import type { OriginFiles } from './origin-files.js';
import type { Shard, Team } from './pool.js';

/** The glue that wasm-bindgen writes into dist/ (`--target web`); only the worker imports it. */
export default function init(options?: { module_or_path: string | URL | WebAssembly.Module }): Promise<unknown>;
/** Registers the actor on the worker's message port. `host` starts the other workers of a pool, opens the origin's files, times
 * kernels, keeps small facts, and has pipelines compiled ahead. */
export function start(host: {
  startTeam(count: number, module: WebAssembly.Module): Promise<Team>;
  openFiles(): Promise<OriginFiles | undefined>;
  startProfile: typeof startProfile;
  endProfile: typeof endProfile;
  kept(key: string): Promise<unknown>;
  keep(key: string, value: string): Promise<void>;
  pipelinesAhead(make: () => void): Promise<void>;
}): void;
/** Does what the leader of a pool asks of this worker. */
export function serveShard(type: string, body: unknown, shard: Shard): Promise<unknown>;
