/** Log-probabilities in OpenAI's two shapes, from what the worker tells of tokens. Must not know requests. */
import type { WireLogprob } from './protocol.js';
import { invalid } from './request.js';
import type { ChatLogprobs, ChatRequest, CompletionLogprobs, CompletionRequest, TokenLogprob } from './types.js';

const MOST = 20;

/** How many of the most probable tokens a chat asks for; undefined where it asks for no log-probabilities. */
export function chatTop(request: ChatRequest): number | undefined {
  const { logprobs, top_logprobs: top } = request;
  if (typeof (logprobs ?? false) !== 'boolean') throw invalid('logprobs must be true or false', 'logprobs');
  if (top !== undefined && top !== null && logprobs !== true) throw invalid('top_logprobs needs logprobs: true', 'top_logprobs');
  return logprobs === true ? count(top ?? 0, 'top_logprobs') : undefined;
}

/** The same of a completion. */
export function completionTop({ logprobs }: CompletionRequest): number | undefined {
  return logprobs === undefined || logprobs === null ? undefined : count(logprobs, 'logprobs');
}

function count(value: unknown, field: string): number {
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MOST) return value as number;
  throw invalid(`${field} must be a whole number from 0 to ${MOST}`, field);
}

/** Bytes that are no whole characters become U+FFFD. */
function text(bytes: readonly number[]): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

/** As the chat API has them. */
export function chatLogprobs(tokens: readonly WireLogprob[]): ChatLogprobs {
  const one = ({ bytes, logprob }: WireLogprob): TokenLogprob => ({ token: text(bytes), logprob, bytes: [...bytes] });
  return { content: tokens.map((token) => ({ ...one(token), top_logprobs: (token.top ?? []).map(one) })), refusal: null };
}

/** As the older completions API has them, of the tokens of one text after the other: each call goes on where the last ended. */
export function completionLogprobs(): (tokens: readonly WireLogprob[]) => CompletionLogprobs {
  // Characters of several tokens count where they end.
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  let offset = 0;
  return (tokens) => {
    const result: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const token of tokens) {
      result.tokens.push(name(token));
      result.token_logprobs.push(token.logprob);
      const top = [...(token.top ?? []), token].map((other) => [name(other), other.logprob] as const);
      result.top_logprobs.push(Object.fromEntries(top));
      result.text_offset.push(offset);
      offset += decoder.decode(Uint8Array.from(token.bytes), { stream: true }).length;
    }
    return result;
  };
}

/** A token's text; of parts of characters, which would all look the same, their bytes as OpenAI writes them. */
function name({ bytes }: WireLogprob): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return 'bytes:' + bytes.map((byte) => '\\x' + byte.toString(16).padStart(2, '0')).join('');
  }
}
