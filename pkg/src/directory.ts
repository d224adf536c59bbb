/** The files of a folder that the user opened (`showDirectoryPicker`) or that the page keeps (`navigator.storage.getDirectory`). */
import type { WireSource } from './protocol.js';
import { LamplightError } from './types.js';

/** A `FileSystemDirectoryHandle`, which not every TypeScript library can walk through. */
export interface DirectoryHandle {
  readonly kind: 'directory';
  entries(): AsyncIterableIterator<[string, DirectoryHandle | FileHandle]>;
}
interface FileHandle {
  readonly kind: 'file';
  getFile(): Promise<File>;
}

/** A folder with more is not a model's. */
const MAX_FILES = 2000;

/** Whether a model is given by its folder. */
export function isDirectory(model: unknown): model is DirectoryHandle {
  return typeof model === 'object' && model !== null && (model as DirectoryHandle).kind === 'directory' && 'entries' in model;
}

/** Its files, by the names that they have in it. */
export async function directorySource(handle: DirectoryHandle): Promise<WireSource> {
  const files: { name: string; blob: Blob }[] = [];
  await walk(handle, '', files);
  if (files.length === 0) throw new LamplightError('not-a-model', 'the folder is empty', 'model');
  return { kind: 'files', files };
}

async function walk(handle: DirectoryHandle, prefix: string, files: { name: string; blob: Blob }[]): Promise<void> {
  for await (const [name, entry] of handle.entries()) {
    // Version control and hidden files are none of the model's.
    if (name.startsWith('.')) continue;
    if (files.length >= MAX_FILES) throw new LamplightError('limit-exceeded', `the folder has more than ${MAX_FILES} files; open the model's own folder`, 'model');
    if (entry.kind === 'directory') await walk(entry, `${prefix}${name}/`, files);
    else files.push({ name: prefix + name, blob: await entry.getFile() });
  }
}
