/** What went wrong, where, and what to do about it: a heading and advice for every code of the package. */
import { LamplightError, type LamplightErrorCode } from 'lamplight';

/** What an error card shows. */
export interface Explained {
  title: string;
  /** The error's own words. */
  detail: string;
  advice: string;
  code: LamplightErrorCode;
  field?: string | undefined;
}

const file = 'Check that the address or file is a complete GGUF model; a web page or an interrupted download looks like this.';
const otherModel = 'Choose another model: this engine runs GGUF files of the architectures listed in its README.';
const report = 'Reload the page. If it happens again, copy the diagnostics under “This device” and report it.';

const TEXTS: Record<LamplightErrorCode, [title: string, advice: string]> = {
  'not-a-model': ['This is not a model file', file],
  'truncated': ['The model file is incomplete', 'Download or select the file again.'],
  'malformed': ['The model file is damaged', file],
  'limit-exceeded': ['The model file is out of bounds', file],
  'unsupported-version': ['This version of the file format is not supported', 'Choose a GGUF file of version 2 or 3.'],
  'unsupported-type': ['This weight format is not supported', 'Choose another quantisation of the model, such as Q4_K_M or Q8_0.'],
  'unsupported-architecture': ['This model architecture is not supported', otherModel],
  'unsupported-tokenizer': ['This model’s tokenizer is not supported', otherModel],
  'missing-key': ['The model file lacks a setting', file],
  'wrong-type': ['The model file has a wrong setting', file],
  'invalid-value': ['The model file has an impossible setting', file],
  'missing-tensor': ['The model file lacks weights', 'Choose a complete file; a part of a split model cannot run alone.'],
  'wrong-shape': ['The model’s weights do not fit its description', otherModel],
  'template-error': ['The model’s chat template failed', 'Start a new chat; if it fails again, the template in this model file is at fault.'],
  'invalid-request': ['The request was not valid', 'Check the sampling settings.'],
  'context-length-exceeded': ['The conversation is too long for the model', 'Start a new chat, or shorten the message.'],
  'aborted': ['Stopped', 'Parts that were already stored are kept: loading goes on from there.'],
  'disposed': ['The model was unloaded', 'Load it again.'],
  'network': ['The download failed', 'Check the connection and the address, then try again: stored parts are kept. The host must allow requests from other sites (CORS).'],
  'http-status': ['The server refused the download', 'Check the address; a gated model needs a login that this page does not have.'],
  'io': ['The file could not be read', 'Select the file again: it may have been moved or changed.'],
  'storage': ['The browser’s storage failed', 'Delete stored models that you do not need, then try again. A private window may forbid storage.'],
  'quota-exceeded': ['There is not enough storage', 'Delete stored models that you do not need, or free disk space, then try again.'],
  'integrity': ['A stored part was damaged', 'Load the model again: the damaged part is fetched anew.'],
  'gpu-unavailable': ['WebGPU is not available', 'Choose the automatic backend or the CPU. Updating the browser or its graphics driver may bring WebGPU.'],
  'gpu-lost': ['The GPU stopped working', 'Load the model again. If that fails, reload the page or choose the CPU.'],
  'gpu-check-failed': ['This GPU computes wrong results', 'Choose the CPU; updating the graphics driver may help.'],
  'out-of-memory': ['There is not enough memory', 'Close other tabs, or choose a smaller model or a shorter context.'],
  'worker-failed': ['The engine did not start', 'Reload the page. A strict Content-Security-Policy needs worker-src \'self\' and \'wasm-unsafe-eval\'.'],
  'interrupted': ['Another tab took the engine with it', 'Ask again: this tab or another one has loaded the model anew.'],
  'internal': ['Something went wrong inside the engine', report],
};

/** Any thrown value, explained. */
export function explain(error: unknown): Explained {
  const code: LamplightErrorCode = error instanceof LamplightError ? error.code : 'internal';
  const [title, advice] = TEXTS[code] ?? TEXTS.internal;
  return {
    title,
    detail: error instanceof Error ? error.message : String(error),
    advice,
    code,
    field: error instanceof LamplightError ? error.field : undefined,
  };
}

/** Whether an error only says that the user stopped something. */
export function isAbort(error: unknown): boolean {
  return (error instanceof LamplightError && error.code === 'aborted')
    || (error instanceof DOMException && error.name === 'AbortError');
}
