/** What this device can do, which backend runs and why, and the state of offline use. */
import { capabilities, type AdapterInfo, type Capabilities, type EngineInfo } from 'lamplight';
import { fill, h, icon } from './dom';
import { factList, yesNo } from './facts';
import { binaryBytes, bytes, count } from './format';

export class DevicePanel {
  readonly root = h('div', { class: 'device' });
  #capabilities: Capabilities | undefined;
  #info: EngineInfo | undefined;
  #problem: string | undefined;
  #offlineReady = false;

  constructor() {
    addEventListener('online', () => this.#show());
    addEventListener('offline', () => this.#show());
    this.#show();
  }

  /** What was found, for texts elsewhere. */
  get capabilities(): Capabilities | undefined {
    return this.#capabilities;
  }

  /** Asks the browser for everything. */
  async refresh(): Promise<void> {
    try {
      this.#capabilities = await capabilities();
      this.#problem = undefined;
    } catch (error) {
      this.#problem = error instanceof Error ? error.message : String(error);
    }
    this.#show();
  }

  /** `undefined` when no model is loaded. */
  showEngine(info: EngineInfo | undefined): void {
    this.#info = info;
    this.#show();
  }

  /** The page's own files are kept, so that it opens without a network. */
  showOfflineReady(ready: boolean): void {
    this.#offlineReady = ready;
    this.#show();
  }

  #show(): void {
    const found = this.#capabilities;
    if (!found) {
      fill(this.root, h('p', { class: 'note' }, this.#problem ?? 'Looking at this device…'));
      return;
    }
    const info = this.#info;
    const adapter = info?.adapter ?? found.adapter;
    fill(this.root,
      this.#verdict(found),
      factList([
        ['WebGPU', yesNo(found.webgpu)],
        ...(adapter ? adapterRows(adapter) : []),
        ['SIMD WebAssembly', yesNo(found.simd)],
        ['Processor threads', count(found.hardwareConcurrency)],
        ['Device memory', found.deviceMemoryGiB ? `about ${count(found.deviceMemoryGiB)} GiB` : undefined],
        ['Engine memory', info ? `${bytes(info.memory.backendBytes)} model, ${bytes(info.memory.wasmBytes)} WebAssembly` : undefined],
        ['Cross-origin isolated', found.crossOriginIsolated ? 'yes' : 'no (not needed)'],
      ]),
      this.#offline(),
      h('div', { class: 'button-row' }, this.#diagnosticsButton()));
  }

  #verdict(found: Capabilities): HTMLElement {
    const info = this.#info;
    const backend = info?.backend ?? (found.webgpu ? 'webgpu' : 'cpu');
    const reason = info?.backendReason
      ?? (found.webgpu ? 'WebGPU is available; its self-check runs when a model is loaded.' : found.webgpuReason ?? 'WebGPU is not available.');
    return h('div', { class: 'verdict' },
      h('p', { class: 'verdict-backend' }, icon('chip'),
        info ? 'Running on ' : 'Automatic would choose ', h('strong', {}, backendName(backend))),
      h('p', { class: 'verdict-reason' }, reasonSentence(reason)));
  }

  #offline(): HTMLElement {
    if (!navigator.onLine) {
      return h('p', { class: 'status-line' }, icon('offline'), 'You are offline. Stored models and local files still work.');
    }
    return h('p', { class: 'status-line' }, icon(this.#offlineReady ? 'check' : 'link'),
      this.#offlineReady
        ? 'Ready for offline use: the page and its stored models open without a network.'
        : 'Once a model is loaded, the page keeps itself for offline use.');
  }

  #diagnosticsButton(): HTMLButtonElement {
    const label = h('span', {}, 'Copy diagnostics');
    return h('button', {
      type: 'button',
      class: 'button small',
      title: 'Device facts for a report; nothing of the conversation',
      on: {
        click: () => {
          const facts = { capabilities: this.#capabilities, engine: this.#info, userAgent: navigator.userAgent };
          navigator.clipboard.writeText(JSON.stringify(facts, null, 2))
            .then(() => { label.textContent = 'Copied'; }, () => { label.textContent = 'Copying was blocked'; })
            .finally(() => setTimeout(() => { label.textContent = 'Copy diagnostics'; }, 1600));
        },
      },
    }, icon('copy'), label);
  }
}

/** The engine's reason as a sentence of its own: the backend's name stands elsewhere. */
export function reasonSentence(reason: string): string {
  const rest = reason.replace(/^(?:the CPU|CPU|WebGPU): /, '');
  return `${rest.charAt(0).toUpperCase()}${rest.slice(1)}${/[.!?]$/.test(rest) ? '' : '.'}`;
}

export function backendName(backend: 'webgpu' | 'cpu'): string {
  return backend === 'webgpu' ? 'WebGPU' : 'the CPU';
}

function adapterRows(adapter: AdapterInfo): [string, string | Node][] {
  const { limits } = adapter;
  const name = adapter.description || [adapter.vendor, adapter.architecture].filter(Boolean).join(' ') || 'unnamed';
  return [
    ['Adapter', adapter.isFallback ? `${name} (software)` : name],
    ['16-bit floats (shader-f16)', yesNo(adapter.f16)],
    ['Subgroups', yesNo(adapter.subgroups)],
    ['Largest buffer', binaryBytes(limits.maxBufferSize)],
    ['Largest binding', binaryBytes(limits.maxStorageBufferBindingSize)],
    ['Workgroup memory', binaryBytes(limits.maxComputeWorkgroupStorageSize)],
    ['Workgroup size', count(limits.maxComputeInvocationsPerWorkgroup)],
    ['Storage buffers a stage', count(limits.maxStorageBuffersPerShaderStage)],
  ];
}
