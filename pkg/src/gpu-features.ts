/**
 * Has GPU devices made with features that the wasm core does not ask for by itself, wherever the adapter has them: wgpu knows
 * no subgroups in browsers (and passes shader text through as it is), and time stamps are of use to the worker's script only.
 */
interface Adapter {
  features: { has(name: string): boolean };
  requestDevice(descriptor?: { requiredFeatures?: Iterable<string> }): Promise<unknown>;
}

/** Wraps `requestDevice` of the class `GPUAdapter`, where the browser has that. */
export function askForFeatures(adapter: { prototype: Adapter } | undefined, names: readonly string[]): void {
  if (adapter === undefined) return;
  const { prototype } = adapter;
  const request = prototype.requestDevice;
  prototype.requestDevice = function (this: Adapter, descriptor) {
    const there = names.filter((name) => this.features.has(name));
    if (there.length === 0) return request.call(this, descriptor);
    const requiredFeatures = [...new Set([...descriptor?.requiredFeatures ?? [], ...there])];
    return request.call(this, { ...descriptor, requiredFeatures });
  };
}
