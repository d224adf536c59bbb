/** Sampling settings: a form, remembered between visits, read when a reply starts. */
import type { SamplingOptions } from 'lamplight';
import { h, uniqueId } from './dom';
import { remember, remembered } from './store';

interface Values {
  systemPrompt: string;
  temperature: number;
  topP: number;
  topK: number;
  repetitionPenalty: number;
  maxTokens: number;
  /** Undefined: another one for every reply. */
  seed?: number;
}

const DEFAULTS: Values = {
  systemPrompt: '',
  temperature: 0.6,
  topP: 0.95,
  topK: 40,
  repetitionPenalty: 1.1,
  maxTokens: 512,
};

type NumericKey = 'temperature' | 'topP' | 'topK' | 'repetitionPenalty';

const SLIDERS: { key: NumericKey; label: string; hint: string; min: number; max: number; step: number }[] = [
  { key: 'temperature', label: 'Temperature', hint: '0 always takes the likeliest token', min: 0, max: 2, step: 0.05 },
  { key: 'topP', label: 'Top-p', hint: 'Keep the likeliest tokens up to this share', min: 0.05, max: 1, step: 0.05 },
  { key: 'topK', label: 'Top-k', hint: 'Keep at most so many tokens; 0 keeps all', min: 0, max: 100, step: 1 },
  { key: 'repetitionPenalty', label: 'Repetition penalty', hint: '1 switches it off', min: 1, max: 1.5, step: 0.05 },
];

const KEY = 'sampling';
/** The engine takes any 32-bit seed. */
const MAX_SEED = 0xffff_ffff;

export class SettingsForm {
  readonly root: HTMLFormElement;
  #values: Values = readValues();
  /** Puts the current values into the fields. */
  readonly #refresh: (() => void)[] = [];

  constructor() {
    this.root = h('form', { class: 'settings', on: { submit: (event) => event.preventDefault() } },
      this.#systemPrompt(),
      ...SLIDERS.map((slider) => this.#slider(slider)),
      h('div', { class: 'field-pair' }, this.#maxTokens(), this.#seed()),
      h('div', { class: 'button-row' },
        h('button', { type: 'button', class: 'button small', on: { click: () => this.#reset() } }, 'Restore defaults')));
  }

  get systemPrompt(): string {
    return this.#values.systemPrompt.trim();
  }

  /** For a request. */
  sampling(): SamplingOptions {
    const { temperature, topP, topK, repetitionPenalty, maxTokens, seed } = this.#values;
    return {
      temperature,
      top_p: topP,
      top_k: topK,
      repetition_penalty: repetitionPenalty,
      max_tokens: maxTokens,
      ...(seed !== undefined && { seed }),
    };
  }

  #systemPrompt(): HTMLElement {
    const id = uniqueId('system-prompt');
    const area = h('textarea', {
      id,
      rows: 3,
      placeholder: 'The model’s own',
      on: { input: () => this.#change({ systemPrompt: area.value }) },
    });
    this.#refresh.push(() => { area.value = this.#values.systemPrompt; });
    area.value = this.#values.systemPrompt;
    return h('div', { class: 'field' }, h('label', { htmlFor: id }, 'System prompt'), area);
  }

  #slider({ key, label, hint, min, max, step }: (typeof SLIDERS)[number]): HTMLElement {
    const id = uniqueId(key);
    const output = h('output', { attrs: { for: id } });
    const input = h('input', {
      id,
      type: 'range',
      min: String(min),
      max: String(max),
      step: String(step),
      title: hint,
      on: { input: () => { this.#change({ [key]: input.valueAsNumber }); show(); } },
    });
    const show = () => {
      input.value = String(this.#values[key]);
      // Set through the object model, which the policy allows; only WebKit and Chromium need it to fill the track.
      input.style.setProperty('--share', `${((this.#values[key] - min) / (max - min)) * 100}%`);
      output.value = step < 1 ? this.#values[key].toFixed(2) : String(this.#values[key]);
    };
    this.#refresh.push(show);
    show();
    return h('div', { class: 'field slider' }, h('label', { htmlFor: id, title: hint }, label), output, input);
  }

  #maxTokens(): HTMLElement {
    const id = uniqueId('max-tokens');
    const input = h('input', {
      id,
      type: 'number',
      min: '1',
      max: '32768',
      step: '1',
      attrs: { inputmode: 'numeric' },
      on: { change: () => { this.#change({ maxTokens: clamp(input.valueAsNumber, 1, 32768, DEFAULTS.maxTokens) }); show(); } },
    });
    const show = () => { input.value = String(this.#values.maxTokens); };
    this.#refresh.push(show);
    show();
    return h('div', { class: 'field' }, h('label', { htmlFor: id }, 'Max. tokens'), input);
  }

  #seed(): HTMLElement {
    const id = uniqueId('seed');
    const input = h('input', {
      id,
      type: 'number',
      min: '0',
      max: String(MAX_SEED),
      step: '1',
      placeholder: 'random',
      title: 'The same seed gives the same text',
      attrs: { inputmode: 'numeric' },
      on: { change: () => { this.#setSeed(input.valueAsNumber); show(); } },
    });
    const show = () => { input.value = this.#values.seed === undefined ? '' : String(this.#values.seed); };
    this.#refresh.push(show);
    show();
    return h('div', { class: 'field' }, h('label', { htmlFor: id }, 'Seed'), input);
  }

  #setSeed(value: number): void {
    const { seed: _old, ...rest } = this.#values;
    this.#values = Number.isFinite(value) ? { ...rest, seed: clamp(value, 0, MAX_SEED, 0) } : rest;
    remember(KEY, this.#values);
  }

  #change(change: Partial<Values>): void {
    this.#values = { ...this.#values, ...change };
    remember(KEY, this.#values);
  }

  #reset(): void {
    this.#values = { ...DEFAULTS };
    remember(KEY, undefined);
    for (const refresh of this.#refresh) refresh();
  }
}

/** Stored settings may come from another version of the page: each is checked. */
function readValues(): Values {
  const stored = remembered<Partial<Values>>(KEY, {});
  const values = { ...DEFAULTS };
  if (typeof stored.systemPrompt === 'string') values.systemPrompt = stored.systemPrompt;
  for (const { key, min, max } of SLIDERS) values[key] = inRange(stored[key], min, max, DEFAULTS[key]);
  values.maxTokens = Math.round(inRange(stored.maxTokens, 1, 32768, DEFAULTS.maxTokens));
  if (typeof stored.seed === 'number') values.seed = clamp(stored.seed, 0, MAX_SEED, 0);
  return values;
}

function inRange(value: unknown, min: number, max: number, fallback: number): number {
  return typeof value === 'number' && value >= min && value <= max ? value : fallback;
}

function clamp(value: number, min: number, max: number, fallback: number): number {
  return Number.isFinite(value) ? Math.min(max, Math.max(min, Math.round(value))) : fallback;
}
