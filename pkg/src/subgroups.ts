/**
 * Has GPU devices made with subgroup operations wherever the adapter has them: the wasm core asks through wgpu, which
 * knows no such feature in browsers, and passes shader text through as it is.
 */
interface Adapter {
  features: { has(name: string): boolean };
  requestDevice(descriptor?: { requiredFeatures?: Iterable<string> }): Promise<unknown>;
}

/** Wraps `requestDevice` of the class `GPUAdapter`, where the browser has that. */
export function askForSubgroups(adapter: { prototype: Adapter } | undefined): void {
  if (adapter === undefined) return;
  const { prototype } = adapter;
  const request = prototype.requestDevice;
  prototype.requestDevice = function (this: Adapter, descriptor) {
    if (!this.features.has('subgroups')) return request.call(this, descriptor);
    const features = new Set(descriptor?.requiredFeatures).add('subgroups');
    return request.call(this, { ...descriptor, requiredFeatures: [...features] });
  };
}
