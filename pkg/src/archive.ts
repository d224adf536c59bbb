/**
 * A stored model as one file, to carry it to another browser: magic, length of the description, the description as
 * JSON, then all parts one after the other. The parts' hashes are in the description, so an archive proves itself.
 */
import type { WireFile } from './protocol.js';
import { LamplightError } from './types.js';

const MAGIC = 'lamplight model 1\n';
/** A description longer than this is none: it has some hundred bytes for every part of 16 MiB. */
const MAX_DESCRIPTION = 64 * 2 ** 20;

/** The archive of stored files. Copies nothing: a Blob of Blobs refers to them. */
export function pack(files: WireFile[]): Blob {
  const description = new TextEncoder().encode(JSON.stringify(files.map(({ record, parts }) => ({ record, parts }))));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, description.length, true);
  return new Blob([MAGIC, length, description, ...files.flatMap(({ blobs }) => blobs)], { type: 'application/octet-stream' });
}

/** The files of an archive; what they hold is checked by who stores them. */
export async function unpack(archive: Blob): Promise<WireFile[]> {
  const head = MAGIC.length + 4;
  const start = await archive.slice(0, head).arrayBuffer();
  const magic = new TextDecoder().decode(start.slice(0, MAGIC.length));
  if (start.byteLength < head || magic !== MAGIC) {
    throw new LamplightError('not-a-model', 'this is not a model that models.export() wrote; a GGUF file is loaded by createEngine');
  }
  const length = new DataView(start).getUint32(MAGIC.length, true);
  if (length > MAX_DESCRIPTION) throw malformed('its description is impossibly long');
  let at = head + length;
  let files: Omit<WireFile, 'blobs'>[];
  try {
    files = JSON.parse(await archive.slice(head, at).text());
  } catch {
    throw malformed('its description cannot be read');
  }
  const sound = Array.isArray(files) && files.length > 0 && files.every((file) => typeof file?.record?.key === 'string'
    && Array.isArray(file.parts) && file.parts.every((part) => Number.isSafeInteger(part?.len) && part.len >= 0));
  if (!sound) throw malformed('its description has another form');
  const unpacked = files.map(({ record, parts }) => ({
    record,
    parts,
    blobs: parts.map(({ len }) => archive.slice(at, at += len)),
  }));
  if (at !== archive.size) throw new LamplightError('truncated', `the archive has ${archive.size} bytes, its description speaks of ${at}`);
  return unpacked;
}

function malformed(why: string): LamplightError {
  return new LamplightError('malformed', `the archive of the model is damaged: ${why}`);
}
