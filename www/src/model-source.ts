/**
 * Choosing a model: the catalog's cards, an address, a file, and the backend. It downloads nothing by itself.
 * Its principal type is `ModelChooser`; it reports a choice and must not know what becomes of it.
 */
import type { BackendChoice, CachedModel } from 'lamplight';
import { displayName, findStored, isModelAddress, type CatalogModel } from './catalog';
import { fill, h, icon, uniqueId } from './dom';
import type { LoadRequest } from './engine-host';
import { bytes } from './format';

const BACKENDS: { value: BackendChoice; label: string; title: string }[] = [
  { value: 'auto', label: 'Automatic', title: 'WebGPU where it is available and passes its self-check, else the CPU' },
  { value: 'webgpu', label: 'WebGPU', title: 'The graphics processor' },
  { value: 'cpu', label: 'CPU', title: 'SIMD WebAssembly on the processor' },
];

/** The backend that both choosers show. */
export class BackendSetting extends EventTarget {
  #value: BackendChoice;

  constructor(value: BackendChoice) {
    super();
    this.#value = value;
  }

  get value(): BackendChoice {
    return this.#value;
  }

  set value(value: BackendChoice) {
    this.#value = value;
    this.dispatchEvent(new Event('change'));
  }
}

/** Three radio buttons in a row. */
export function backendSwitch(setting: BackendSetting): HTMLElement {
  const name = uniqueId('backend');
  const inputs = BACKENDS.map(({ value }) => h('input', {
    type: 'radio',
    name,
    value,
    checked: value === setting.value,
    on: { change: () => { setting.value = value; } },
  }));
  setting.addEventListener('change', () => {
    for (const input of inputs) input.checked = input.value === setting.value;
  });
  return h('fieldset', { class: 'segmented' },
    h('legend', {}, 'Run on'),
    h('div', { class: 'segments' }, ...BACKENDS.map(({ label, title }, index) =>
      h('label', { title }, inputs[index], h('span', {}, label)))));
}

export class ModelChooser {
  readonly root = h('div', { class: 'chooser' });
  readonly #cards = h('div', { class: 'model-offers' });
  readonly #address: HTMLInputElement;
  readonly #addressError = h('p', { class: 'field-error', id: uniqueId('address-error'), attrs: { role: 'alert' } });
  readonly #file: HTMLInputElement;
  readonly #choose: (request: LoadRequest) => void;
  readonly #backend: BackendSetting;

  constructor(backend: BackendSetting, choose: (request: LoadRequest) => void) {
    this.#choose = choose;
    this.#backend = backend;
    const id = uniqueId('address');
    this.#address = h('input', {
      id,
      type: 'url',
      placeholder: 'https://…/model.gguf',
      autocomplete: 'off',
      spellcheck: false,
      attrs: { inputmode: 'url', 'aria-describedby': this.#addressError.id },
      on: { input: () => this.#showAddressError('') },
    });
    this.#file = h('input', {
      type: 'file',
      accept: '.gguf',
      // Opened by the button beside it.
      hidden: true,
      on: { change: () => this.#takeFile() },
    });
    const form = h('form', { class: 'address-form', noValidate: true, on: { submit: (event) => this.#takeAddress(event) } },
      h('label', { htmlFor: id }, 'Address of a GGUF file, or hf:owner/repo'),
      h('div', { class: 'input-row' }, this.#address, h('button', { type: 'submit', class: 'button' }, 'Load')),
      this.#addressError);
    const pick = h('button', { type: 'button', class: 'button', on: { click: () => this.#file.click() } },
      icon('file'), 'Choose a file');
    fill(this.root, this.#cards, form,
      h('div', { class: 'file-row' }, pick, this.#file, h('span', { class: 'hint' }, 'or drop a .gguf anywhere on the page')));
  }

  /** Fills the address field without loading (a `?model=` link must not start a download). */
  suggestAddress(address: string): void {
    this.#address.value = address;
  }

  /** Shows the catalog; a model that is stored completely says so. */
  showCatalog(models: CatalogModel[], cached: CachedModel[]): void {
    const focused = this.#loadButtons().indexOf(document.activeElement as HTMLButtonElement);
    fill(this.#cards, ...models.map((model, index) => {
      const stored = findStored(model.url, cached);
      const complete = stored?.complete ?? false;
      const facts = [model.bytes ? bytes(model.bytes) : null, 'GGUF', model.license ?? null];
      if (complete) facts.push('stored in this browser');
      else if (stored?.bytesStored) facts.push(`${bytes(stored.bytesStored)} already stored`);
      const size = !complete && model.bytes ? ` · ${bytes(model.bytes - (stored?.bytesStored ?? 0))}` : '';
      return h('div', { class: 'model-offer' },
        h('div', { class: 'offer-text' },
          h('p', { class: 'offer-name' }, model.name),
          h('p', { class: 'facts' }, facts.filter(Boolean).join(' · ')),
          model.homepage && h('a', { href: model.homepage, target: '_blank', rel: 'noopener noreferrer' }, 'About this model')),
        h('button', {
          type: 'button',
          class: index === 0 ? 'button primary' : 'button',
          attrs: { 'data-load-model': true },
          on: { click: () => this.chooseCatalogModel(model) },
        }, icon(complete ? 'chip' : 'download'), complete ? 'Load' : `Download${size}`, h('span', { class: 'visually-hidden' }, ` ${model.name}`)));
    }));
    // The list is drawn anew when the store changes: the keyboard stays where it was.
    this.#loadButtons()[focused]?.focus();
  }

  #loadButtons(): HTMLButtonElement[] {
    return [...this.#cards.querySelectorAll<HTMLButtonElement>('[data-load-model]')];
  }

  chooseCatalogModel(model: CatalogModel): void {
    this.#choose({ label: model.name, model: model.url, backend: this.#backend.value, bytes: model.bytes });
  }

  chooseFile(file: File): void {
    this.#choose({ label: displayName(file.name), model: file, backend: this.#backend.value, bytes: file.size });
  }

  #takeFile(): void {
    const file = this.#file.files?.[0];
    this.#file.value = '';
    if (file) this.chooseFile(file);
  }

  #takeAddress(event: SubmitEvent): void {
    event.preventDefault();
    const text = this.#address.value.trim();
    const url = text === '' ? null : URL.parse(text, document.baseURI);
    if (!url) return this.#showAddressError('Enter the full address of a GGUF file, such as https://example.org/model.gguf.');
    if (!isModelAddress(url)) return this.#showAddressError('The address must begin with https:// (http:// works for this machine only).');
    this.#showAddressError('');
    this.#choose({ label: displayName(url.pathname), model: url.href, backend: this.#backend.value });
  }

  #showAddressError(text: string): void {
    this.#addressError.textContent = text;
    if (text) this.#address.setAttribute('aria-invalid', 'true');
    else this.#address.removeAttribute('aria-invalid');
    if (text) this.#address.focus();
  }
}
