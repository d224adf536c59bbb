/** The loaded model: name, architecture, parameters, formats, size, context, licence, and where it came from. */
import type { EngineInfo } from 'lamplight';
import type { CatalogModel } from './catalog';
import { fill, h, icon } from './dom';
import { factList } from './facts';
import { bytes, count, duration, formatName, parameters } from './format';

export class ModelCard {
  readonly root = h('div', { class: 'model-card' });

  constructor(unload: () => void) {
    this.#unload = h('button', { type: 'button', class: 'button small', on: { click: unload } }, 'Unload');
    this.clear();
  }

  readonly #unload: HTMLButtonElement;

  clear(): void {
    fill(this.root, h('p', { class: 'note' }, 'No model is loaded.'));
  }

  /** `label` is the name it was chosen by; `entry` the catalog's line for the model, when it has one. */
  show(info: EngineInfo, label: string, entry?: CatalogModel): void {
    const { model } = info;
    const formats = Object.entries(model.formats).sort(([, a], [, b]) => b - a);
    fill(this.root,
      h('p', { class: 'model-name' }, label),
      factList([
        ['Name in the file', model.name === label ? undefined : model.name],
        ['Runs on', info.backend === 'webgpu' ? 'WebGPU' : 'CPU'],
        ['Architecture', `${model.architecture}, ${count(model.nLayers)} layers`],
        ['Parameters', parameters(model.nParams)],
        ['Weights', formats.map(([name, size]) => `${formatName(name)} ${bytes(size)}`.replaceAll(' ', '\u00a0')).join(', ')],
        ['File', bytes(model.fileBytes)],
        ['Vocabulary', `${count(model.nVocab)} tokens`],
        ['Context', contextText(info)],
        ['Chat template', model.hasChatTemplate ? 'in the file' : 'none: plain turns are used'],
        ['Loaded', `${info.load.fromCache ? 'from this browser’s storage' : 'from its source'} in ${duration(info.load.seconds * 1000)}`],
        ['Ready after the last weight', duration(info.load.readyMs)],
        ['Kept for next time', info.load.cached ? 'yes' : 'no'],
        ['Licence', licence(info, entry)],
        ['About', entry?.homepage ? link(entry.homepage) : undefined],
      ]),
      ...warnings(info),
      h('div', { class: 'button-row' }, this.#unload));
  }
}

/** What the page's owner says, else what the file says; a link only where it leads to https. */
function licence({ model }: EngineInfo, entry: CatalogModel | undefined): string | Node | undefined {
  const name = entry?.license ?? model.license;
  const address = entry?.license ? null : URL.parse(model.licenseLink ?? '');
  return name && address?.protocol === 'https:' ? link(address.href, name) : name;
}

/** What the engine worked around; the same trouble with each part of a file is told once. */
function warnings(info: EngineInfo): HTMLElement[] {
  const texts = new Set(info.warnings.map(({ code, message }) => `${message.charAt(0).toUpperCase()}${message.slice(1)} (${code}).`));
  return [...texts].map((text) => h('p', { class: 'warning' }, icon('alert'), h('span', {}, text)));
}

function contextText({ contextLength, model }: EngineInfo): string {
  const trained = model.contextLengthTrained;
  const used = `${count(contextLength)} tokens`;
  return trained === contextLength ? used : `${used} (trained for ${count(trained)})`;
}

function link(address: string, text = new URL(address).host): HTMLAnchorElement {
  return h('a', { href: address, target: '_blank', rel: 'noopener noreferrer', title: address }, text);
}
