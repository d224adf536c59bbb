/** Puts the page together and wires its parts: host, welcome, chat, composer, panel. Holds no logic of theirs. */
import { fit, type BackendChoice, type CachedModel } from 'lamplight';
import { announce, announcerElement } from './announcer';
import { CacheList } from './cache-list';
import { fetchCatalog, findOffer, findStored, isModelAddress, storedName, type CatalogModel } from './catalog';
import { Chat } from './chat';
import { Composer } from './composer';
import { askForConsent, meteredReason } from './consent';
import { backendName, DevicePanel, reasonSentence } from './device-panel';
import { fill, h, icon } from './dom';
import { acceptDrops } from './drop';
import { EngineHost, type LoadRequest } from './engine-host';
import { explain } from './errors';
import { LoadStatus } from './load-status';
import { ModelCard } from './model-card';
import { BackendSetting, backendSwitch, ModelChooser } from './model-source';
import { isPageKept, keepPageOffline } from './offline';
import { Panel } from './panel';
import { ProfilePanel } from './profile-panel';
import { SettingsForm } from './settings';
import { snippet } from './snippet';
import { remember, remembered } from './store';
import { themeButton } from './theme';
import { Welcome } from './welcome';

/** The key of the model that was loaded last: it may start by itself when it is stored completely. */
const LAST_MODEL = 'lastModel';
/** The download that the user agreed to in this tab: it goes on after a reload. */
const DOWNLOAD = 'download';

export class App {
  readonly #root: HTMLElement;
  readonly #host = new EngineHost();
  readonly #backend = new BackendSetting(initialBackend());
  readonly #settings = new SettingsForm();
  readonly #device = new DevicePanel();
  readonly #profile = new ProfilePanel();
  readonly #cache = new CacheList((entry) => this.#loadStored(entry));
  readonly #choosers = [0, 1].map(() => new ModelChooser(this.#backend, (request) => void this.#choose(request)));
  readonly #modelCard = new ModelCard(() => void this.#host.unload());
  readonly #status = new LoadStatus((request) => this.#load(request), () => this.#host.cancel());
  readonly #welcome: Welcome;
  readonly #scroller = h('div', { class: 'scroller' });
  readonly #chat = new Chat({
    engine: () => this.#host.engine,
    settings: this.#settings,
    profile: this.#profile,
    scroller: this.#scroller,
    reload: () => this.#loadAgain(),
  });
  readonly #composer: Composer;
  readonly #panel: Panel;
  readonly #main = h('main', { id: 'main' });
  readonly #dockSlot = h('div', { class: 'status-slot' });
  readonly #chip = h('p', { class: 'model-chip' });
  readonly #newChat: HTMLButtonElement;
  /** Another backend or model, in the panel. */
  readonly #change: HTMLElement;
  readonly #reload = h('div', { class: 'reload-row', hidden: true });
  #catalog: CatalogModel[] = [];
  #shownKind = 'idle';

  constructor(root: HTMLElement) {
    this.#root = root;
    const [inWelcome, inPanel] = this.#choosers as [ModelChooser, ModelChooser];
    this.#change = h('div', { class: 'model-change' }, backendSwitch(this.#backend), this.#reload, otherModel(inPanel));
    this.#composer = new Composer({ send: (text) => void this.#chat.send(text), stop: () => this.#chat.stop() });
    this.#welcome = new Welcome(backendSwitch(this.#backend), inWelcome, (prompt) => this.#sendPrompt(prompt),
      () => this.#panel.reveal('device'));
    this.#newChat = h('button', { type: 'button', class: 'button new-chat', title: 'New chat', on: { click: () => this.#startNewChat() } },
      icon('plus'), h('span', {}, 'New chat'));
    const header = h('header', { class: 'topbar' });
    this.#panel = new Panel([
      { id: 'model', title: 'Model', body: h('div', {}, this.#modelCard.root, this.#change), open: true },
      { id: 'settings', title: 'Sampling', body: this.#settings.root, open: true },
      { id: 'cache', title: 'Stored models', body: this.#cache.root, open: true },
      { id: 'device', title: 'This device', body: this.#device.root, open: true },
      { id: 'profile', title: 'Kernel times', body: this.#profile.root, open: false },
      { id: 'code', title: 'In your own page', body: snippet(), open: false },
    ], () => [header, this.#main]);
    fill(header,
      h('h1', { class: 'brand' }, icon('lamp', 'lamp'), h('span', {}, 'Lamplight')),
      this.#chip,
      h('div', { class: 'topbar-actions' }, this.#newChat, themeButton(), this.#panel.toggle));
    fill(this.#scroller, this.#welcome.root, this.#chat.root);
    fill(this.#main, this.#scroller, h('div', { class: 'dock' }, this.#dockSlot, this.#composer.root));
    fill(root,
      h('a', { class: 'skip-link', href: '#main', on: { click: (event) => { event.preventDefault(); this.#composer.focus(); } } }, 'Skip to the message field'),
      header, this.#main, this.#panel.scrim, this.#panel.root, announcerElement,
      acceptDrops((file) => inWelcome.chooseFile(file)));
    this.#listen();
    this.#show();
  }

  /** Looks at the device, the catalog and the store; starts a model only if it is stored already. */
  async start(): Promise<void> {
    const query = new URLSearchParams(location.search);
    const suggested = query.get('model');
    if (suggested) for (const chooser of this.#choosers) chooser.suggestAddress(suggested);
    this.#device.showOfflineReady(isPageKept());
    void this.#device.refresh().then(() => this.#showDeviceLine());
    const stored = this.#cache.refresh();
    this.#catalog = await fetchCatalog();
    this.#showCatalog();
    await stored;
    const last = this.#cache.entries.find((entry) => entry.key === remembered(LAST_MODEL, ''));
    if (this.#host.state.kind !== 'idle') return;
    const unfinished = remembered<LoadRequest | undefined>(DOWNLOAD, undefined, 'tab');
    if (unfinished && isDownload(unfinished)) return meteredReason() ? this.#choose(unfinished) : this.#load(unfinished);
    if (last?.complete && !suggested) this.#loadStored(last);
  }

  #listen(): void {
    this.#host.addEventListener('change', () => this.#show());
    this.#chat.addEventListener('change', () => this.#show());
    this.#cache.addEventListener('change', () => this.#showCatalog());
    this.#backend.addEventListener('change', () => {
      remember('backend', this.#backend.value);
      this.#show();
    });
    // Another tab may have downloaded or deleted something.
    document.addEventListener('visibilitychange', () => { if (!document.hidden) void this.#cache.refresh(); });
    addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
      if (this.#chat.busy) this.#chat.stop();
      else if (this.#host.state.kind === 'loading') this.#host.cancel();
    });
  }

  /** Asks before anything is fetched from the network. */
  async #choose(request: LoadRequest): Promise<void> {
    const { model, label } = request;
    if (typeof model === 'string') {
      const stored = findStored(model, this.#cache.entries);
      const license = findOffer(model, this.#catalog)?.license;
      const { freeBytes } = this.#cache;
      const size = request.bytes ?? (stored?.bytesTotal || undefined);
      const download = {
        label, from: new URL(model).host || 'Hugging Face', bytes: size, storedBytes: stored?.bytesStored ?? 0, freeBytes, license,
        fit: (signal: AbortSignal) => fit({ model, backend: request.backend, signal }),
      };
      if (!stored?.complete && !(await askForConsent(download))) return;
    }
    this.#load(request);
  }

  #load(request: LoadRequest): void {
    this.#chat.stop();
    this.#panel.closeDrawer();
    void this.#host.load(request);
    // After the engine before has gone, whose end forgets what it was loaded for.
    if (isDownload(request)) remember(DOWNLOAD, request, 'tab');
  }

  #loadStored(entry: CachedModel): void {
    void this.#choose({ label: storedName(entry.key, entry.name), model: entry.key, backend: this.#backend.value, bytes: entry.bytesTotal });
  }

  /** The same model on the backend that is chosen now. */
  #loadAgain(): void {
    const { state } = this.#host;
    if (state.kind === 'ready' || state.kind === 'failed') this.#load({ ...state.request, backend: this.#backend.value });
  }

  #sendPrompt(prompt: string): void {
    this.#composer.focus();
    void this.#chat.send(prompt);
  }

  #startNewChat(): void {
    this.#chat.clear();
    announce('New chat.');
    this.#composer.focus();
  }

  /** Draws the state; on a change of kind also the things that happen once. */
  #show(): void {
    const { state } = this.#host;
    const focused = document.activeElement;
    const hasMessages = !this.#chat.empty;
    this.#welcome.root.hidden = hasMessages;
    this.#chat.root.hidden = !hasMessages;
    this.#newChat.hidden = !hasMessages;
    // Before the first model the welcome page has these very controls.
    this.#change.hidden = !hasMessages && state.kind !== 'ready';
    this.#root.dataset['state'] = state.kind;
    this.#root.classList.toggle('talking', hasMessages);
    const slot = hasMessages ? this.#dockSlot : this.#welcome.statusSlot;
    if (this.#status.root.parentNode !== slot) slot.append(this.#status.root);
    this.#status.show(state);
    this.#welcome.show(state);
    this.#composer.setState({ ready: state.kind === 'ready', busy: this.#chat.busy });
    this.#composer.setContext(this.#chat.contextTokens, this.#host.engine?.info.contextLength ?? 0);
    this.#showReload();
    if (state.kind !== this.#shownKind) {
      this.#shownKind = state.kind;
      this.#entered();
      if (focused && focused !== document.body && !focused.checkVisibility()) this.#placeFocus();
    }
  }

  /** What had the focus is gone: a keyboard goes on where the next step is. */
  #placeFocus(): void {
    const { kind } = this.#host.state;
    const next = kind === 'idle' ? this.#welcome.root.querySelector<HTMLElement>('[data-load-model]') : this.#status.root.querySelector('button');
    if (kind === 'ready' || !next?.checkVisibility()) this.#composer.focus();
    else next.focus();
  }

  #entered(): void {
    const { state } = this.#host;
    const info = this.#host.engine?.info;
    this.#device.showEngine(info);
    this.#showDeviceLine();
    fill(this.#chip);
    this.#modelCard.clear();
    if (state.kind === 'loading') announce(`Loading ${state.request.label}.`);
    if (state.kind === 'failed') announce(explain(state.error).title);
    if (state.kind === 'ready' && info) this.#becameReady(state.request);
    if (state.kind === 'loading') return;
    // After a broken connection a reload may go on; whatever else ended the load, the user decides.
    if (state.kind !== 'failed' || explain(state.error).code !== 'network') remember(DOWNLOAD, undefined, 'tab');
    void this.#cache.refresh();
  }

  #becameReady(request: LoadRequest): void {
    const info = this.#host.engine?.info;
    if (!info) return;
    remember(LAST_MODEL, info.load.key);
    this.#modelCard.show(info, request.label, typeof request.model === 'string' ? findOffer(request.model, this.#catalog) : undefined);
    fill(this.#chip,
      h('span', { class: 'chip-model' }, request.label),
      h('span', { class: `chip-backend ${info.backend}`, title: info.backendReason }, info.backend === 'webgpu' ? 'WebGPU' : 'CPU'));
    announce(`${request.label} is ready on ${backendName(info.backend)}.`);
    // Do not take the focus away from a field that is being filled in.
    const active = document.activeElement;
    if (!active || active === document.body || !this.#panel.root.contains(active)) this.#composer.focus();
    void keepPageOffline().then((kept) => this.#device.showOfflineReady(kept));
  }

  /** Another backend takes a new load: offered, not done behind the user's back. */
  #showReload(): void {
    const { state } = this.#host;
    const differs = state.kind === 'ready' && state.request.backend !== this.#backend.value;
    this.#reload.hidden = !differs;
    if (!differs) return fill(this.#reload);
    if (this.#reload.childElementCount > 0) return;
    fill(this.#reload, h('button', {
      type: 'button',
      class: 'button primary',
      on: { click: () => this.#loadAgain() },
    }, icon('redo'), 'Reload the model to switch'));
  }

  #showCatalog(): void {
    for (const chooser of this.#choosers) chooser.showCatalog(this.#catalog, this.#cache.entries);
  }

  #showDeviceLine(): void {
    const info = this.#host.engine?.info;
    // What the browser said to the core is in the panel.
    if (info) return this.#welcome.showDevice(reasonSentence(info.backendReason.replace(/ \([^()]*\)$/, '')));
    const found = this.#device.capabilities;
    if (!found) return;
    const adapter = found.adapter;
    const gpu = adapter ? adapter.description || [adapter.vendor, adapter.architecture].filter(Boolean).join(' ') : '';
    this.#welcome.showDevice(found.webgpu
      ? `WebGPU is available here${gpu ? ` (${gpu})` : ''}.`
      : `WebGPU is not available here: the CPU will be used${found.simd ? '' : ', which lacks SIMD'}.`);
  }
}

function otherModel(chooser: ModelChooser): HTMLElement {
  return h('details', { class: 'other-model' }, h('summary', {}, icon('chevron', 'icon chevron'), 'Load another model'), chooser.root);
}

/** Whether a request (perhaps one from storage) is for a model at an address. */
function isDownload({ label, model, backend }: LoadRequest): boolean {
  const url = typeof model === 'string' ? URL.parse(model) : null;
  return url !== null && isModelAddress(url) && typeof label === 'string' && ['auto', 'webgpu', 'cpu'].includes(backend);
}

/** `?backend=` in the address, else the last choice. */
function initialBackend(): BackendChoice {
  const asked = new URLSearchParams(location.search).get('backend') ?? remembered<unknown>('backend', 'auto');
  return asked === 'webgpu' || asked === 'cpu' ? asked : 'auto';
}
