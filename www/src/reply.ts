/**
 * One reply as it comes in: text, clock, and at the end the engine's own measurements. Pure data and arithmetic.
 * Decode speed is counted as (n - 1) / (last token - first token): the first token belongs to the prefill.
 */
import type { FinishReason, Usage } from 'lamplight';
import { count, duration, rate } from './format';

export class Reply {
  text = '';
  /** Chunks with text so far; the engine sends one a token. */
  pieces = 0;
  finish: FinishReason | undefined;
  usage: Usage | undefined;
  error: unknown;
  readonly #startedAt: number;
  #firstAt = 0;
  #lastAt = 0;

  constructor(now: number) {
    this.#startedAt = now;
  }

  get done(): boolean {
    return this.finish !== undefined || this.error !== undefined;
  }

  add(text: string, now: number): void {
    if (this.pieces === 0) this.#firstAt = now;
    this.#lastAt = now;
    this.pieces += 1;
    this.text += text;
  }

  /** The read-out under the reply: measured by the engine when it is done, by this page's clock until then. */
  readout(now: number): { label: string; value: string; title: string }[] {
    const { usage } = this;
    if (!usage) {
      if (this.pieces === 0) return [item('reading the prompt', duration(now - this.#startedAt), 'Time since the message was sent')];
      const seconds = (this.#lastAt - this.#firstAt) / 1000;
      return [
        item('first token', duration(this.#firstAt - this.#startedAt), FIRST),
        item('decode', seconds > 0 ? `${rate((this.pieces - 1) / seconds)} tok/s` : '–', DECODE),
        item('tokens', count(this.pieces), 'Pieces of text so far'),
      ];
    }
    const { timings } = usage;
    const cached = usage.cached_tokens > 0 ? `, of which ${count(usage.cached_tokens)} were still in memory` : '';
    const items = [item('first token', duration(timings.ttft_ms), FIRST)];
    if (timings.prefill_tok_s > 0) items.push(item('prefill', `${rate(timings.prefill_tok_s)} tok/s`, `Reading of the prompt: ${count(usage.prompt_tokens)} tokens${cached}`));
    if (timings.decode_tok_s > 0) items.push(item('decode', `${rate(timings.decode_tok_s)} tok/s`, DECODE));
    items.push(item('tokens', count(usage.completion_tokens), 'Tokens of this reply'));
    return items;
  }

  /** Why it ended, when that is worth a word. */
  get ending(): string {
    if (this.finish === 'length') return 'Token limit reached';
    if (this.finish === 'abort') return 'Stopped';
    return '';
  }
}

const FIRST = 'Time to first token';
const DECODE = 'Writing of the reply, after the first token';

function item(label: string, value: string, title: string) {
  return { label, value, title };
}
