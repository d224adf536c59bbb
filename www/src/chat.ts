/**
 * The conversation: messages, the running reply, stop, regenerate, new chat. Fires `change` when it starts, ends or
 * empties. Must not know where the engine comes from or how it was loaded.
 */
import type { ChatMessage, Engine, LamplightErrorCode } from 'lamplight';
import { announce } from './announcer';
import { fill, h, icon } from './dom';
import { explain, isAbort } from './errors';
import { ReplyView, userMessage } from './message-view';
import type { ProfilePanel } from './profile-panel';
import { Reply } from './reply';
import type { SettingsForm } from './settings';

/** What a conversation needs from the page around it. */
export interface ChatSetting {
  /** The loaded engine, if there is one now. */
  engine: () => Engine | undefined;
  settings: SettingsForm;
  /** Says whether replies are timed, and shows where the time went. */
  profile: ProfilePanel;
  /** The scrolling element around the conversation. */
  scroller: HTMLElement;
  /** Loads the same model again, after the engine was lost. */
  reload: () => void;
}

/** After these the engine answers no more. */
const LOST = new Set<LamplightErrorCode>(['gpu-lost', 'worker-failed', 'disposed', 'out-of-memory', 'internal']);

/** Within so many pixels of the end the page follows the text. */
const FOLLOW_WITHIN = 80;

export class Chat extends EventTarget {
  readonly root = h('section', { class: 'conversation', tabIndex: -1, attrs: { 'aria-label': 'Conversation' } });
  readonly #list = h('ol', { class: 'messages' });
  readonly #jump: HTMLButtonElement;
  readonly #engine: () => Engine | undefined;
  readonly #settings: SettingsForm;
  readonly #profile: ProfilePanel;
  readonly #scroller: HTMLElement;
  readonly #reload: () => void;
  #messages: ChatMessage[] = [];
  #abort: AbortController | undefined;
  #view: ReplyView | undefined;
  #follow = true;

  constructor({ engine, settings, profile, scroller, reload }: ChatSetting) {
    super();
    this.#engine = engine;
    this.#settings = settings;
    this.#profile = profile;
    this.#scroller = scroller;
    this.#reload = reload;
    this.#jump = h('button', {
      type: 'button',
      class: 'jump',
      hidden: true,
      on: { click: () => this.#scrollToEnd(true) },
    }, icon('down'), 'Jump to the latest');
    fill(this.root, this.#list, this.#jump);
    scroller.addEventListener('scroll', () => this.#noticeScroll(), { passive: true });
  }

  get busy(): boolean {
    return this.#abort !== undefined;
  }

  get empty(): boolean {
    return this.#messages.length === 0;
  }

  /** Tokens of the conversation after the last reply, as the engine counted them. */
  contextTokens = 0;

  /** Sends a message and streams the reply. */
  async send(text: string): Promise<void> {
    if (this.busy || !this.#engine() || text.trim() === '') return;
    this.#messages.push({ role: 'user', content: text });
    this.#list.append(userMessage(text));
    await this.#reply();
  }

  stop(): void {
    this.#abort?.abort();
  }

  /** Drops everything; a running reply is stopped. */
  clear(): void {
    this.stop();
    this.#abort = undefined;
    this.#view = undefined;
    this.#messages = [];
    this.contextTokens = 0;
    this.#jump.hidden = true;
    this.#follow = true;
    fill(this.#list);
    this.#changed();
  }

  /** Drops the last reply and asks again. */
  async regenerate(): Promise<void> {
    if (this.busy || !this.#engine()) return;
    if (this.#messages.at(-1)?.role === 'assistant') this.#messages.pop();
    this.#view?.root.remove();
    this.#view = undefined;
    await this.#reply();
  }

  async #reply(): Promise<void> {
    const engine = this.#engine();
    if (!engine) return;
    const abort = new AbortController();
    this.#abort = abort;
    this.#follow = true;
    this.#view?.retire();
    const reply = new Reply(performance.now());
    const view = new ReplyView(reply, () => this.#scrollToEnd(false));
    this.#view = view;
    this.#list.append(view.root);
    this.#changed();
    this.#scrollToEnd(true);
    const clock = setInterval(() => view.update(), 200);
    try {
      await this.#stream(engine, reply, view, abort.signal);
    } catch (error) {
      if (isAbort(error)) reply.finish = 'abort';
      else reply.error = error;
    } finally {
      clearInterval(clock);
      if (abort.signal.aborted) reply.finish ??= 'abort';
      const lost = reply.error !== undefined && LOST.has(explain(reply.error).code);
      view.finish(() => void this.regenerate(), lost ? this.#reload : undefined);
    }
    // A new chat may have begun meanwhile.
    if (this.#abort !== abort) return;
    this.#abort = undefined;
    if (reply.text) this.#messages.push({ role: 'assistant', content: reply.text });
    if (reply.usage) this.contextTokens = reply.usage.total_tokens;
    announce(announcement(reply));
    this.#changed();
  }

  async #stream(engine: Engine, reply: Reply, view: ReplyView, signal: AbortSignal): Promise<void> {
    const { systemPrompt } = this.#settings;
    const turns = alternating(this.#messages);
    const messages = systemPrompt ? [{ role: 'system', content: systemPrompt }, ...turns] : turns;
    const request = { ...this.#settings.sampling(), messages, profile: this.#profile.wanted, signal };
    const stream = await engine.chat.completions.create({ ...request, stream: true });
    for await (const chunk of stream) {
      const [choice] = chunk.choices;
      if (choice.delta.content) reply.add(choice.delta.content, performance.now());
      if (chunk.usage) reply.usage = chunk.usage;
      if (choice.finish_reason) reply.finish = choice.finish_reason;
      view.update();
    }
    reply.finish ??= 'stop';
    this.#profile.show(reply.usage?.profile);
  }

  #noticeScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#follow = scrollHeight - scrollTop - clientHeight < FOLLOW_WITHIN;
    this.#jump.hidden = this.#follow || this.empty;
  }

  #scrollToEnd(force: boolean): void {
    if (force) this.#follow = true;
    if (this.#follow) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #changed(): void {
    this.dispatchEvent(new Event('change'));
  }
}

/**
 * Chat templates want user and assistant in turn. A reply that failed leaves two messages of the user in a row: they
 * become one.
 */
function alternating(messages: ChatMessage[]): ChatMessage[] {
  const turns: ChatMessage[] = [];
  for (const message of messages) {
    const last = turns.at(-1);
    if (last?.role === message.role) turns[turns.length - 1] = { ...last, content: `${last.content}\n\n${message.content}` };
    else turns.push(message);
  }
  return turns;
}

function announcement(reply: Reply): string {
  if (reply.error !== undefined) return '';
  return `${reply.ending ? `${reply.ending}. ` : ''}Lamplight: ${reply.text}`;
}
