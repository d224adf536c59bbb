// End to end on the CPU path, in a Chromium without WebGPU, with the real model: cold load, chat, stop, reload from the cache.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MODEL_BYTES, MODEL_PATH, PART_BYTES, around, assertNoProblems, load, openPage, says } from './harness.mjs';

describe('chat without WebGPU', () => {
  let server, browser, page;
  around({}, (started) => { ({ server, browser, page } = started); });

  test('a cold load downloads the file in parts and takes the CPU, saying why', async (t) => {
    const { info, progress, seconds } = await load(page, { model: MODEL_PATH });
    t.diagnostic(`cold load: ${seconds.toFixed(2)} s`);
    assert.equal(info.backend, 'cpu');
    assert.match(info.backendReason, /webgpu|gpu/i);
    assert.equal(info.load.fromCache, false);
    assert.ok(info.load.readyMs > 0 && info.load.readyMs < info.load.seconds * 1000, `${info.load.readyMs} ms of ${info.load.seconds} s`);
    assert.equal(info.model.architecture, 'llama');
    assert.equal(info.model.nVocab, 49152);
    assert.equal(info.model.fileBytes, MODEL_BYTES);
    assert.equal(info.model.hasChatTemplate, true);

    const requests = server.requests(MODEL_PATH);
    const sent = requests.reduce((sum, entry) => sum + entry.sent, 0);
    assert.ok(sent >= 0.95 * MODEL_BYTES && sent <= MODEL_BYTES + PART_BYTES, `${sent} bytes were sent in ${requests.length} answers`);
    assert.ok(requests.every((entry) => entry.status === 206), JSON.stringify(requests));

    const fractions = progress.map((value) => value.fraction);
    assert.ok(fractions.length >= 6, `${fractions.length} progress reports`);
    assert.deepEqual(fractions, [...fractions].sort((a, b) => a - b), 'progress went backwards');
    assert.equal(progress[0].phase, 'starting');
    assert.ok(progress.some((value) => value.phase === 'downloading'));
    assert.equal(progress.at(-1).phase, 'ready');
    assert.equal(progress.at(-1).fraction, 1);
  });

  test('a greedy completion says the capital of France', async () => {
    const result = await page.evaluate(() => engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 5 }));
    assert.equal(result.object, 'text_completion');
    // The reference decides these five by a margin that 8-bit activations cannot overturn.
    assert.equal(result.choices[0].text, ' Paris.\n\nThe');
    assert.equal(result.choices[0].finish_reason, 'length');
    assert.equal(result.usage.prompt_tokens, 5);
    assert.equal(result.usage.completion_tokens, 5);
    assert.ok(result.usage.timings.ttft_ms > 0 && result.usage.timings.decode_tok_s > 0);
  });

  test('a chat streams: iterated, as a ReadableStream and whole it is the same text', async (t) => {
    const result = await page.evaluate(async () => {
      const request = { messages: [{ role: 'user', content: 'Name the three primary colours.' }], temperature: 0.7, seed: 7, max_tokens: 24 };
      const chunks = [];
      for await (const chunk of await engine.chat.completions.create({ ...request, stream: true })) chunks.push(chunk);
      const reader = (await engine.chat.completions.create({ ...request, stream: true })).getReader();
      let read = '';
      for (let next = await reader.read(); !next.done; next = await reader.read()) read += next.value.choices[0].delta.content ?? '';
      const whole = await engine.chat.completions.create(request);
      return { chunks, read, whole };
    });
    const text = result.chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('');
    assert.ok(text.length > 10);
    assert.equal(result.read, text);
    assert.equal(result.whole.choices[0].message.content, text);
    assert.equal(result.whole.object, 'chat.completion');
    assert.equal(result.chunks[0].choices[0].delta.role, 'assistant');
    const last = result.chunks.at(-1);
    assert.match(last.choices[0].finish_reason, /^(stop|length)$/);
    assert.ok(result.chunks.slice(0, -1).every((chunk) => chunk.choices[0].finish_reason === null));
    const { timings } = last.usage;
    t.diagnostic(`prefill ${timings.prefill_tok_s.toFixed(1)} tok/s, decode ${timings.decode_tok_s.toFixed(1)} tok/s, first token ${timings.ttft_ms.toFixed(0)} ms`);
    assert.equal(last.usage.total_tokens, last.usage.prompt_tokens + last.usage.completion_tokens);
  });

  test('a profile tells where the time of decoded tokens went', async () => {
    const [timed, after] = await page.evaluate(async () => {
      const request = { prompt: 'The capital of France is', temperature: 0, max_tokens: 5 };
      return [await engine.completions.create({ ...request, profile: true }), await engine.completions.create(request)];
    });
    assert.equal(timed.choices[0].text, after.choices[0].text);
    assert.equal(after.usage.profile, undefined);
    const { kernels, bytesPerSecond } = timed.usage.profile;
    assert.ok(bytesPerSecond > 1e6, `${bytesPerSecond}`);
    const up = kernels.find(({ name }) => name === 'ffn_up');
    // Thirty layers of four tokens after the one that the prompt gives, and of what of the prompt is a step by itself.
    assert.ok(up.calls % 30 === 0 && up.calls >= 4 * 30 && up.calls <= 30 * timed.usage.work.steps, JSON.stringify(up));
    assert.ok(up.ms > 0 && up.bytes > 0 && up.share > 0, JSON.stringify(up));
    assert.deepEqual(kernels, [...kernels].sort((a, b) => b.ms - a.ms));
  });

  test('bias, allowed tokens and log-probabilities, whole and streamed', async () => {
    const result = await page.evaluate(async () => {
      const request = { prompt: 'The capital of France is', temperature: 0, max_tokens: 4 };
      const [paris] = await engine.tokenize(' Paris');
      const messages = [{ role: 'user', content: 'Write a smiley: 🙂' }];
      const chat = { messages, temperature: 1.5, seed: 3, max_tokens: 24, stop: ['e'], logprobs: true, top_logprobs: 3 };
      const chunks = [];
      for await (const chunk of await engine.chat.completions.create({ ...chat, stream: true })) chunks.push(chunk.choices[0]);
      const legacy = [];
      for await (const chunk of await engine.completions.create({ ...request, logprobs: 2, stream: true })) legacy.push(chunk.choices[0]);
      const codes = [];
      for (const wrong of [
        { logit_bias: { 5: 101 } }, { logit_bias: { 5: NaN } }, { logit_bias: { 49152: 1 } }, { logit_bias: { x: 1 } },
        { allowed_token_ids: [3, 49152] }, { allowed_token_ids: [] }, { logprobs: 21 }, { logprobs: true },
      ]) codes.push(await engine.completions.create({ ...request, ...wrong }).then(() => 'none', (error) => `${error.code} ${error.field}`));
      codes.push(await engine.chat.completions.create({ messages, top_logprobs: 2 }).then(() => 'none', (error) => `${error.code} ${error.field}`));
      return {
        plain: await engine.completions.create({ ...request, logprobs: 2 }),
        without: await engine.completions.create({ ...request, logit_bias: { [paris]: -100 } }),
        only: await engine.completions.create({ ...request, allowed_token_ids: Uint32Array.of(paris), logprobs: 0 }),
        whole: (await engine.chat.completions.create(chat)).choices[0], chunks, legacy, codes,
      };
    });
    const { text, logprobs } = result.plain.choices[0];
    assert.equal(logprobs.tokens.join(''), text);
    assert.deepEqual(logprobs.text_offset, logprobs.tokens.map((_, i) => logprobs.tokens.slice(0, i).join('').length));
    assert.deepEqual(logprobs.top_logprobs.map((top) => Object.keys(top).length), logprobs.tokens.map(() => 2));
    logprobs.tokens.forEach((token, i) => assert.equal(logprobs.top_logprobs[i][token], Math.max(...Object.values(logprobs.top_logprobs[i]))));
    assert.ok(logprobs.token_logprobs.every((value) => value < 0 && value > -3), `${logprobs.token_logprobs}`);
    const joined = (key) => result.legacy.flatMap((choice) => choice.logprobs?.[key] ?? []);
    for (const key of ['tokens', 'token_logprobs', 'text_offset']) assert.deepEqual(joined(key), logprobs[key]);
    assert.doesNotMatch(result.without.choices[0].text, /^ Paris/);
    assert.equal(result.without.choices[0].logprobs, undefined);
    assert.equal(result.only.choices[0].text, ' Paris'.repeat(4));
    // Of the first the model is sure by itself; of the fourth it would not be.
    assert.ok(Math.abs(result.only.choices[0].logprobs.token_logprobs[0] - logprobs.token_logprobs[0]) < 1e-4);

    const bytes = (content) => content.flatMap((token) => token.bytes);
    const { message, logprobs: { content } } = result.whole;
    assert.ok(message.content.length > 0 && !message.content.includes('e'), message.content);
    assert.ok(Buffer.from(bytes(content)).toString().startsWith(message.content));
    assert.ok(!Buffer.from(bytes(content.slice(0, -1))).toString().startsWith(message.content));
    assert.ok(content.every(({ top_logprobs: top }) => top.length === 3 && top[0].logprob >= top[1].logprob && top[1].logprob >= top[2].logprob));
    const streamed = result.chunks.flatMap((choice) => choice.logprobs?.content ?? []);
    assert.deepEqual(streamed, content);
    assert.deepEqual(result.codes, [
      'logit_bias[5]', 'logit_bias[5]', 'logit_bias[49152]', 'logit_bias', 'allowed_token_ids[1]', 'allowed_token_ids', 'logprobs', 'logprobs', 'top_logprobs',
    ].map((field) => `invalid-request ${field}`));
  });

  test('a second turn reuses the KV cache of the first', async () => {
    const usage = await page.evaluate(async () => {
      const messages = [{ role: 'user', content: 'Say hello.' }];
      const first = await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 8 });
      messages.push(first.choices[0].message, { role: 'user', content: 'Say it again.' });
      return (await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 4 })).usage;
    });
    assert.ok(usage.cached_tokens > 10, JSON.stringify(usage));
  });

  test('an abort stops a chat in decode, and in prefill', async (t) => {
    const result = await page.evaluate(async () => {
      const during = async (request, when) => {
        const controller = new AbortController();
        const started = performance.now();
        let asked;
        const stop = () => { asked = performance.now(); controller.abort(); };
        let chunks = 0;
        let outcome;
        try {
          const stream = await engine.chat.completions.create({ ...request, stream: true, signal: controller.signal, temperature: 0 });
          if (when === 'prefill') setTimeout(stop, 60);
          for await (const chunk of stream) {
            outcome = chunk.choices[0].finish_reason;
            if (chunk.choices[0].delta.content) chunks += 1;
            if (when === 'decode' && chunks === 3 && asked === undefined) stop();
          }
        } catch (error) {
          outcome = error.code;
        }
        return { outcome, chunks, stopMs: performance.now() - asked, wholeMs: performance.now() - started };
      };
      const decode = await during({ messages: [{ role: 'user', content: 'Count from one to five hundred.' }], max_tokens: 400 }, 'decode');
      const long = 'The keeper walked along the stones to light the lamp. '.repeat(60);
      const prefill = await during({ messages: [{ role: 'user', content: long }], max_tokens: 8 }, 'prefill');
      // The engine must be of use at once.
      const next = await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 1 });
      return { decode, prefill, next: next.choices[0].text };
    });
    t.diagnostic(`stopped ${result.decode.stopMs.toFixed(0)} ms after the abort in decode, ${result.prefill.stopMs.toFixed(0)} ms in prefill`);
    assert.match(result.decode.outcome, /^abort(ed)?$/);
    assert.ok(result.decode.chunks < 100, `${result.decode.chunks} chunks came`);
    assert.match(result.prefill.outcome, /^abort(ed)?$/);
    assert.equal(result.prefill.chunks, 0);
    assert.equal(result.next, ' Paris');
  });

  test('leaving a for await stops the generation', async () => {
    const result = await page.evaluate(async () => {
      const request = { messages: [{ role: 'user', content: 'Tell a very long story.' }], max_tokens: 1000, temperature: 0 };
      for await (const chunk of await engine.chat.completions.create({ ...request, stream: true })) if (chunk.choices[0].delta.content) break;
      const next = await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 1 });
      return next.choices[0].text;
    });
    assert.equal(result, ' Paris');
  });

  test('stop strings are held back and end the text', async () => {
    const result = await page.evaluate(async () => {
      let text = '';
      let reason;
      const stream = await engine.completions.create({ prompt: 'The capital of France is', temperature: 0, max_tokens: 20, stop: '.\n', stream: true });
      for await (const chunk of stream) { text += chunk.choices[0].text; reason = chunk.choices[0].finish_reason; }
      return { text, reason };
    });
    assert.deepEqual(result, { text: ' Paris', reason: 'stop' });
  });

  test('tokenize, detokenize, applyChatTemplate and forward', async () => {
    const result = await page.evaluate(async () => {
      const text = 'Grüße, 世界! 👩‍👩‍👧 <|im_end|>';
      const ids = await engine.tokenize(text);
      const special = await engine.tokenize('<|im_end|>', { parseSpecial: true });
      const chat = await engine.applyChatTemplate([{ role: 'user', content: 'Hi <|im_end|>' }]);
      const { logits, nVocab } = await engine.forward([504, 3575, 282, 4649, 314]);
      const all = await engine.forward([504, 3575], { all: true });
      return {
        same: (await engine.detokenize(ids)) === text, special: [...special], ids: [...ids],
        chat: chat.text, ends: [...chat.ids].filter((id) => id === special[0]).length,
        best: logits.indexOf(Math.max(...logits)), sizes: [logits.length, nVocab, all.logits.length],
      };
    });
    assert.equal(result.same, true);
    assert.equal(result.special.length, 1);
    assert.ok(!result.ids.includes(result.special[0]), 'text of a user became a control token');
    assert.match(result.chat, /<\|im_start\|>user\nHi <\|im_end\|><\|im_end\|>\n<\|im_start\|>assistant\n$/);
    // The system turn's and the user turn's own end; the one in the user's text is not among them.
    assert.equal(result.ends, 2);
    assert.equal(result.best, 7042);
    assert.deepEqual(result.sizes, [49152, 49152, 2 * 49152]);
  });

  test('bad requests reject with a code and a field, and the engine goes on', async () => {
    const result = await page.evaluate(async () => {
      const codes = [];
      const attempt = (promise) => promise.then(() => codes.push('ok'), (error) => codes.push(error.code));
      await attempt(engine.chat.completions.create({ messages: [] }));
      await attempt(engine.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], temperature: -1 }));
      await attempt(engine.completions.create({ prompt: [1, 2, 10_000_000], max_tokens: 1 }));
      await attempt(engine.completions.create({ prompt: 'word '.repeat(9000), max_tokens: 1 }));
      await attempt(engine.completions.create({ prompt: 'ok', max_tokens: 1 }));
      return codes;
    });
    assert.deepEqual(result, ['invalid-request', 'invalid-request', 'invalid-request', 'context-length-exceeded', 'ok']);
  });

  test('a reload comes from the cache with no request for weights', async (t) => {
    server.clearLog();
    server.fault(MODEL_PATH, { status: 503 });
    await page.close();
    page = await openPage(browser, server);
    const { info, seconds } = await load(page, { model: MODEL_PATH });
    t.diagnostic(`load from the cache: ${seconds.toFixed(2)} s`);
    assert.equal(info.load.fromCache, true);
    assert.deepEqual(server.requests(MODEL_PATH), []);
    assert.equal(await says(page, { tokens: 1 }), ' Paris');
    server.clearFaults();
  });

  test('the cache is listed, measured and deleted', async () => {
    const { before: listed, size, after: left, afterSize } = await page.evaluate(async () => {
      const { models } = lamplight;
      const [beforeList, bytes] = [await models.list(), await models.size()];
      await engine.dispose();
      await models.delete(beforeList[0].key);
      return { before: beforeList, size: bytes, after: await models.list(), afterSize: await models.size() };
    });
    assert.equal(listed.length, 1);
    assert.ok(listed[0].key.endsWith(MODEL_PATH), listed[0].key);
    assert.equal(listed[0].complete, true);
    assert.equal(listed[0].bytesTotal, MODEL_BYTES);
    assert.ok(size >= 0.95 * MODEL_BYTES, `${size} bytes`);
    assert.deepEqual(left, []);
    assert.equal(afterSize, 0);
  });

  test('after dispose every call rejects', async () => {
    const code = await page.evaluate(() => engine.tokenize('x').then(() => 'no error', (error) => error.code));
    assert.equal(code, 'disposed');
    assertNoProblems(page);
  });
});
