/**
 * Where the time of a request goes on the GPU, kernel by kernel. Runs in the worker, outside of the wasm core: while a request is
 * profiled, each dispatch that the core records gets a compute pass of its own with a time stamp at both ends, for WebGPU has no
 * finer ones. Must not know what the kernels compute; their names are the labels of their pipelines.
 */
import type { KernelTime, Profile } from './types.js';

/** Time stamps of one query set: the most that WebGPU allows. */
const STAMPS = 4096;
/** Bytes of each of the two buffers that are copied to measure memory. */
const COPIED = 64 << 20;
/** What the binding of a kernel's weights has as its number, after the parameters and the step. */
const WEIGHTS = 2;
/** Browsers round time stamps to this, in nanoseconds, unless a developer's switch is set. */
const ROUNDED = 100_000n;

/** A kind of op, as the core tells it. */
interface OpTime { name: string; calls: number; seconds: number; bytes: number }

/** What is recorded in one command buffer. */
interface Recording {
  device: GPUDevice;
  stamps: GPUQuerySet[];
  /** Name and bytes of each dispatch, in order. */
  dispatches: [name: string, bytes: number][];
  /** Where the time stamps come to lie: first for the GPU, then for the CPU. */
  copies?: { resolved: GPUBuffer; staging: GPUBuffer };
}

/** The classes of WebGPU, where there is WebGPU. */
type Classes = Partial<Pick<typeof globalThis, 'GPUDevice' | 'GPUCommandEncoder' | 'GPUQueue'>>;

/** Bytes of a group's weights, and of how many equal parts of them a row of workgroups reads one, as the core labels it; 0: all. */
const weights = new WeakMap<GPUBindGroup, { bytes: number; shares: number }>();
const devices = new WeakMap<GPUCommandEncoder, GPUDevice>();
const recordings = new WeakMap<GPUCommandEncoder, Recording>();
const finished = new WeakMap<GPUCommandBuffer, Recording>();
const copySpeeds = new WeakMap<GPUDevice, Promise<number | undefined>>();

/** The request that is profiled, if one is. */
let clock: KernelClock | undefined;

/** Times of one request. */
class KernelClock {
  readonly #times = new Map<string, KernelTime>();
  readonly #reading: Promise<void>[] = [];
  /** What computes, and whether it can be timed. */
  device: GPUDevice | undefined;
  #coarse = true;

  begin(encoder: GPUCommandEncoder, pass: (descriptor: GPUComputePassDescriptor) => GPUComputePassEncoder): GPUComputePassEncoder | undefined {
    const device = this.device = devices.get(encoder);
    if (!device?.features.has('timestamp-query')) return undefined;
    let recording = recordings.get(encoder);
    if (!recording) recordings.set(encoder, recording = { device, stamps: [], dispatches: [] });
    return apart(recording, pass);
  }

  /** Has the time stamps that were recorded read once the commands are done. */
  submitted(recording: Recording): void {
    if (recording.copies) this.#reading.push(this.#read(recording.copies, recording).catch(() => undefined));
  }

  async #read({ resolved, staging }: Required<Recording>['copies'], { stamps, dispatches }: Recording): Promise<void> {
    await staging.mapAsync(1 /* READ */);
    const ticks = new BigUint64Array(staging.getMappedRange());
    dispatches.forEach(([name, bytes], index) => {
      const [from, to] = [ticks[2 * index]!, ticks[2 * index + 1]!];
      this.#coarse &&= from % ROUNDED === 0n && to % ROUNDED === 0n;
      let time = this.#times.get(name);
      if (!time) this.#times.set(name, time = { name, calls: 0, ms: 0, bytes: 0 });
      time.calls += 1;
      time.ms += to > from ? Number(to - from) / 1e6 : 0;
      time.bytes += bytes;
    });
    [...stamps, resolved, staging].forEach((made) => made.destroy());
  }

  async end(): Promise<Profile> {
    await Promise.all(this.#reading);
    const { device } = this;
    if (!device?.features.has('timestamp-query')) {
      return { kernels: [], missing: 'this browser gives no time stamps of this GPU (timestamp-query)' };
    }
    const profile = shares([...this.#times.values()], await copySpeed(device));
    return this.#coarse ? { ...profile, roundedTo: 0.1 } : profile;
  }
}

/** Looks at what the core makes on the GPU. */
export function watchKernels({ GPUDevice, GPUCommandEncoder, GPUQueue }: Classes = globalThis): void {
  if (!GPUDevice || !GPUCommandEncoder || !GPUQueue) return;
  wrap(GPUDevice.prototype, 'createBindGroup', (create) => function (this: GPUDevice, descriptor) {
    const group = create.call(this, descriptor);
    const entry = [...descriptor.entries].find(({ binding }) => binding === WEIGHTS);
    const bound = entry?.resource as GPUBufferBinding | undefined;
    const bytes = bound?.size ?? bound?.buffer.size ?? 0;
    weights.set(group, { bytes, shares: Number(descriptor.label ?? 0) });
    return group;
  });
  wrap(GPUDevice.prototype, 'createCommandEncoder', (create) => function (this: GPUDevice, descriptor) {
    const encoder = create.call(this, descriptor);
    if (clock) devices.set(encoder, this);
    return encoder;
  });
  wrap(GPUCommandEncoder.prototype, 'beginComputePass', (begin) => function (this: GPUCommandEncoder, descriptor) {
    return clock?.begin(this, (own) => begin.call(this, own)) ?? begin.call(this, descriptor);
  });
  wrap(GPUCommandEncoder.prototype, 'finish', (finish) => function (this: GPUCommandEncoder, descriptor) {
    const recording = recordings.get(this);
    if (recording?.dispatches.length) resolve(this, recording);
    const commands = finish.call(this, descriptor);
    if (recording) finished.set(commands, recording);
    return commands;
  });
  wrap(GPUQueue.prototype, 'submit', (submit) => function (this: GPUQueue, commands) {
    submit.call(this, commands);
    if (!clock) return;
    for (const buffer of commands) {
      const recording = finished.get(buffer);
      if (recording) clock.submitted(recording);
    }
  });
}

/** Times what runs on the GPU until `endProfile`. */
export function startProfile(): void {
  clock = new KernelClock();
}

/** Where the time went; `ops` are the CPU's, where that is what computes. */
export async function endProfile(ops?: OpTime[]): Promise<Profile> {
  const ending = clock;
  clock = undefined;
  if (!ops) return ending ? ending.end() : { kernels: [] };
  return shares(ops.map(({ name, calls, seconds, bytes }) => ({ name, calls, ms: seconds * 1e3, bytes })), memorySpeed());
}

function wrap<T extends object, K extends keyof T>(prototype: T, name: K, around: (original: T[K]) => T[K]): void {
  prototype[name] = around(prototype[name]);
}

/** A pass that is one pass for each dispatch. */
function apart(recording: Recording, begin: (descriptor: GPUComputePassDescriptor) => GPUComputePassEncoder): GPUComputePassEncoder {
  let pipeline: GPUComputePipeline;
  let group: GPUBindGroup;
  const pass: Pick<GPUComputePassEncoder, 'setPipeline' | 'setBindGroup' | 'dispatchWorkgroups' | 'end'> = {
    setPipeline(next) { pipeline = next; },
    // The core has one group, and no offsets that change.
    setBindGroup(_index: number, next: GPUBindGroup | null) { group = next!; },
    dispatchWorkgroups(x, y = 1, z) {
      const { device, stamps, dispatches } = recording;
      const at = 2 * dispatches.length % STAMPS;
      if (at === 0) stamps.push(device.createQuerySet({ type: 'timestamp', count: STAMPS }));
      const timestampWrites = { querySet: stamps.at(-1)!, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 };
      const { label } = pipeline;
      dispatches.push([label, readsWeights(label) ? bytesRead(group, y) : 0]);
      const own = begin({ timestampWrites });
      own.setPipeline(pipeline);
      own.setBindGroup(0, group);
      own.dispatchWorkgroups(x, y, z);
      own.end();
    },
    end() {},
  };
  return pass as GPUComputePassEncoder;
}

/** Whether a kernel is of a weight format, the second word of its name. */
function readsWeights(label: string): boolean {
  return /^\S+ [^\s=]+(?: |$)/.test(label);
}

/** Of a group's weights, those that `rows` of workgroups read: of a table the tokens', of experts the chosen ones'. */
function bytesRead(group: GPUBindGroup, rows: number): number {
  const { bytes = 0, shares = 0 } = weights.get(group) ?? {};
  return shares > rows ? bytes * rows / shares : bytes;
}

/** Records that the time stamps are copied to where they can be read. */
function resolve(encoder: GPUCommandEncoder, recording: Recording): void {
  const { device, stamps, dispatches } = recording;
  const size = 16 * dispatches.length;
  const resolved = device.createBuffer({ size: 8 * STAMPS * stamps.length, usage: 0x204 /* QUERY_RESOLVE | COPY_SRC */ });
  const staging = device.createBuffer({ size, usage: 0x9 /* MAP_READ | COPY_DST */ });
  recording.copies = { resolved, staging };
  stamps.forEach((set, index) => {
    const count = Math.min(STAMPS, 2 * dispatches.length - index * STAMPS);
    encoder.resolveQuerySet(set, 0, count, resolved, 8 * STAMPS * index);
  });
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
}

/** With the share of the memory's speed, what takes longest first. */
function shares(kernels: KernelTime[], bytesPerSecond: number | undefined): Profile {
  kernels.sort((a, b) => b.ms - a.ms);
  if (bytesPerSecond === undefined) return { kernels };
  for (const kernel of kernels) {
    if (kernel.bytes > 0 && kernel.ms > 0) kernel.share = kernel.bytes / (kernel.ms / 1e3) / bytesPerSecond;
  }
  return { kernels, bytesPerSecond };
}

/** Bytes a second that copies on the GPU read and write together; measured once. */
function copySpeed(device: GPUDevice): Promise<number | undefined> {
  let speed = copySpeeds.get(device);
  if (!speed) copySpeeds.set(device, speed = measureCopies(device).catch(() => undefined));
  return speed;
}

async function measureCopies(device: GPUDevice): Promise<number | undefined> {
  device.pushErrorScope('out-of-memory');
  const buffers = [0, 1].map(() => device.createBuffer({ size: COPIED, usage: 0xc /* COPY_SRC | COPY_DST */ }));
  let best = 0;
  if (await device.popErrorScope() === null) {
    // Until a submit takes so long that submitting does not count.
    for (let copies = 1, ms = 0; copies <= 1024 && ms < 50; copies *= 2) {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < copies; i++) encoder.copyBufferToBuffer(buffers[0]!, 0, buffers[1]!, 0, COPIED);
      const start = performance.now();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      ms = performance.now() - start;
      best = Math.max(best, copies * 2 * COPIED / (ms / 1e3));
    }
  }
  buffers.forEach((buffer) => buffer.destroy());
  return best || undefined;
}

/** Bytes a second that one thread reads and writes when it copies: the best of a few passes over more than caches hold. */
function memorySpeed(): number | undefined {
  try {
    const from = new Uint8Array(COPIED / 2).fill(1);
    const to = new Uint8Array(COPIED / 2);
    let best = 0;
    for (let pass = 0; pass < 5; pass++) {
      const start = performance.now();
      to.set(from);
      best = Math.max(best, 2 * from.length / ((performance.now() - start) / 1e3));
    }
    return Number.isFinite(best) ? best : undefined;
  } catch {
    return undefined;
  }
}
