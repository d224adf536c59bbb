/** Whether a model fits this device, asked before its weights are downloaded: only its header is read. */
import { WorkerClient, abortedError } from './client.js';
import type { FitFacts } from './protocol.js';
import { loadRequest } from './request.js';
import { deviceMemoryGib, memoryRoom, storageState } from './storage.js';
import { LamplightError, type EngineOptions, type Fit } from './types.js';

/** From this share of the room on, it is tight. */
const TIGHT = 0.8;

/** Reads a model's header and says whether the model fits, with the numbers, and what to change if not. */
export async function fit(options: EngineOptions): Promise<Fit> {
  const { signal } = options ?? {};
  let client: WorkerClient | undefined;
  const start = () => client ??= new WorkerClient(options);
  try {
    const body = await loadRequest(options, () => start().call('models', {}, { signal }));
    const facts = await start().call('fit', body, { signal });
    const state = body.cache ? await storageState() : undefined;
    return judge(facts, {
      storageRoomBytes: state && Math.max(0, state.quotaBytes - state.usageBytes),
      deviceMemoryGiB: deviceMemoryGib(),
      quantized: body.quantize !== undefined,
      sequences: body.sequences,
    });
  } catch (error) {
    throw signal?.aborted ? abortedError(signal) : error;
  } finally {
    client?.close(new LamplightError('disposed', 'the question was answered'));
  }
}

/** What is known of the device. */
export interface Room {
  storageRoomBytes?: number | undefined;
  deviceMemoryGiB?: number | undefined;
  quantized?: boolean;
  /** Texts that are kept. */
  sequences?: number | undefined;
}

/** The verdict on what a model takes. */
export function judge(facts: FitFacts, { storageRoomBytes, deviceMemoryGiB, quantized = false, sequences = 1 }: Room): Fit {
  const { weightBytes, kvBytes, workspaceBytes } = facts.needs;
  const totalBytes = weightBytes + kvBytes + workspaceBytes;
  const reasons: string[] = [];
  const suggestions: string[] = [];
  // The path's own limit is hard; what the device tells is a guide, and from 8 GiB on no bound at all.
  const memory = memoryRoom(deviceMemoryGiB);
  const told = memory.isBound ? memory.bytes : undefined;
  const limits = [facts.limitBytes, told].filter((limit) => limit !== undefined);
  const memoryBytes = limits.length > 0 ? Math.min(...limits) : undefined;
  let verdict: Fit['verdict'] = 'fits';
  if (memoryBytes !== undefined && totalBytes > memoryBytes) {
    verdict = 'no';
    reasons.push(`${mib(totalBytes)} are needed, about ${mib(memoryBytes)} can be had`);
  } else if (memoryBytes !== undefined && totalBytes > memoryBytes * TIGHT) {
    verdict = 'tight';
    reasons.push(`${mib(totalBytes)} are needed of about ${mib(memoryBytes)}`);
  }
  if (verdict !== 'fits' && sequences > 1) suggestions.push(`lower sequences: each takes ${mib(kvBytes / sequences)} with a full context`);
  if (verdict !== 'fits') suggestions.push(...smaller(facts, memoryBytes ?? 0, quantized));
  if (storageRoomBytes !== undefined && facts.missingBytes > storageRoomBytes) {
    if (verdict === 'fits') verdict = 'tight';
    reasons.push(`this browser has room to store ${mib(storageRoomBytes)} more, the download is ${mib(facts.missingBytes)}`);
    suggestions.push('delete stored models, or set the option evict; else the model is fetched again at every visit');
  }
  return {
    verdict, reasons, suggestions, totalBytes, weightBytes, kvBytes, workspaceBytes,
    ...(memoryBytes !== undefined && { memoryBytes }),
    downloadBytes: facts.missingBytes,
    ...(storageRoomBytes !== undefined && { storageRoomBytes }),
    backend: facts.backend, backendReason: facts.backendReason, contextLength: facts.contextLength, model: facts.model,
  };
}

/** What would make a model fit `room`, the least change first. */
function smaller({ needs, contextLength, model, backend, smallerCaches }: FitFacts, room: number, quantized: boolean): string[] {
  const suggestions: string[] = [];
  const others = needs.weightBytes + needs.workspaceBytes;
  const within = (share: number) => smallerCaches.find(([, bytes]) => bytes < needs.kvBytes && others + bytes <= room * share);
  // Where there is not enough room at all, being tight is better.
  const cache = within(TIGHT) ?? (others + needs.kvBytes > room ? within(1) : undefined);
  if (cache) suggestions.push(`set kvCache to '${cache[0]}': the context then takes ${mib(cache[1])} instead of ${mib(needs.kvBytes)}`);
  // In steps that people use; below this a chat is no chat.
  const fitting = Math.floor(((room * TIGHT - others) / Math.max(1, needs.kvBytes)) * contextLength / 512) * 512;
  if (fitting >= 512 && fitting < contextLength) suggestions.push(`set contextLength to ${fitting}`);
  const floats = ['f32', 'f16', 'bf16'].reduce((sum, format) => sum + (model.formats[format] ?? 0), 0);
  if (!quantized && floats > needs.weightBytes / 2) suggestions.push("set the option quantize to 'q4_0' or 'q8_0'");
  else suggestions.push('take a file of fewer bits per weight, or a smaller model');
  if (backend === 'cpu') suggestions.push('use a browser with WebGPU');
  return suggestions;
}

function mib(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
