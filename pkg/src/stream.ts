/** A stream of chunks that is an `AsyncIterable` and a `ReadableStream` at once, in every browser. */
import type { ChunkStream } from './types.js';

export interface ChunkSink<T> {
  push(chunk: T): void;
  end(): void;
  fail(error: unknown): void;
}

/**
 * A stream and the end to fill it by. `onCancel` runs when the reader loses interest: `cancel()`, or leaving a
 * `for await`. What is pushed later is dropped.
 */
export function chunkStream<T>(onCancel: () => void): { stream: ChunkStream<T>; sink: ChunkSink<T> } {
  let controller: ReadableStreamDefaultController<T>;
  let open = true;
  const stream = new ReadableStream<T>({
    start(c) {
      controller = c;
    },
    cancel() {
      open = false;
      onCancel();
    },
  });
  // Safari and older Chromium have no async iteration of streams.
  if (!(Symbol.asyncIterator in stream)) {
    Object.defineProperty(stream, Symbol.asyncIterator, { value: () => iterate(stream) });
  }
  const sink: ChunkSink<T> = {
    push(chunk) {
      if (open) controller.enqueue(chunk);
    },
    end() {
      if (open) controller.close();
      open = false;
    },
    fail(error) {
      if (open) controller.error(error);
      open = false;
    },
  };
  return { stream: stream as ChunkStream<T>, sink };
}

async function* iterate<T>(stream: ReadableStream<T>): AsyncGenerator<T> {
  const reader = stream.getReader();
  let done = false;
  try {
    for (;;) {
      const next = await reader.read();
      if (next.done) {
        done = true;
        return;
      }
      yield next.value;
    }
  } finally {
    if (!done) await reader.cancel();
    reader.releaseLock();
  }
}
