/** The question before a download: what, how much, from where, whether it will fit, and whether this is the connection for it. */
import type { Fit } from 'lamplight';
import { fill, h, icon, uniqueId } from './dom';
import { explain } from './errors';
import { factList } from './facts';
import { bytes } from './format';

export interface Download {
  label: string;
  /** Where it comes from, for people. */
  from: string;
  /** Of the whole model, if it is known. */
  bytes?: number | undefined;
  /** Already stored. */
  storedBytes: number;
  /** Room in the browser's storage, if it says. */
  freeBytes?: number | undefined;
  license?: string | undefined;
  /** Reads the model's header for the exact numbers. */
  fit(signal: AbortSignal): Promise<Fit>;
}

/** Not in every browser, and not in TypeScript's library. */
interface NetworkInformation {
  saveData?: boolean;
  type?: string;
  effectiveType?: string;
}

/** Why a large download may be unwelcome now, as far as the browser tells. */
export function meteredReason(): string | undefined {
  const { connection } = navigator as Navigator & { connection?: NetworkInformation };
  if (connection?.saveData) return 'Your browser is set to save data.';
  if (connection?.type === 'cellular') return 'You seem to be on mobile data.';
  if (/2g|3g/.test(connection?.effectiveType ?? '')) return 'The connection seems to be slow.';
  return undefined;
}

const VERDICTS: Record<Fit['verdict'], string> = { fits: 'fits', tight: 'a tight fit', no: 'does not fit' };

/** Resolves to whether the user wants the download. */
export function askForConsent(download: Download): Promise<boolean> {
  const title = h('h2', { id: uniqueId('consent-title') }, `Download ${download.label}?`);
  const facts = h('div', {});
  const hints = h('div', { class: 'consent-hints' });
  const yes = h('button', { type: 'submit', value: 'yes', class: 'button primary', autofocus: true });
  const guess = download.bytes === undefined ? undefined : Math.max(0, download.bytes - download.storedBytes);
  const show = (memory: string | undefined, found?: Fit, problem?: unknown) => {
    const left = found?.downloadBytes ?? guess;
    fill(facts, factList([
      ['Download', left === undefined ? (memory && problem === undefined ? 'asking the server…' : 'not known') : bytes(left)],
      ['Already stored', download.storedBytes > 0 ? bytes(download.storedBytes) : undefined],
      ['From', download.from],
      ['Licence', download.license ?? found?.model.license],
      ['Room in this browser', download.freeBytes === undefined ? undefined : `about ${bytes(download.freeBytes)}`],
      ['Memory', memory],
    ]));
    const metered = meteredReason();
    const tooLarge = !found && left !== undefined && download.freeBytes !== undefined && left > download.freeBytes;
    const { title: what, detail } = explain(problem);
    fill(hints,
      metered && hint(`${metered} ${left === undefined ? 'The download' : bytes(left)} may be costly or take long.`),
      tooLarge && hint('There is not enough room to keep the model: it would be downloaded again at every visit.'),
      problem !== undefined && hint(`${what}: ${detail}`),
      ...found ? [...found.reasons, ...found.suggestions].map((text) => hint(sentence(text))) : []);
    const verb = problem !== undefined || found?.verdict === 'no' ? 'Try all the same' : left === 0 ? 'Load' : 'Download';
    fill(yes, icon('download'), left && verb === 'Download' ? `${verb} ${bytes(left)}` : verb);
  };
  const dialog: HTMLDialogElement = h('dialog', { class: 'consent', attrs: { 'aria-labelledby': title.id } },
    h('form', { method: 'dialog' },
      title,
      facts,
      hints,
      h('p', { class: 'note' }, 'The model is kept in this browser, so this happens once. You can cancel at any time: what has arrived stays, and the download goes on from there.'),
      h('div', { class: 'button-row' }, yes, h('button', { type: 'submit', value: 'no', class: 'button' }, 'Not now'))));
  const closed = new AbortController();
  // A header can be some megabytes: where those count and the size is known, it is not fetched for a forecast.
  const forecast = guess === undefined || meteredReason() === undefined;
  show(forecast ? 'asking…' : undefined);
  if (forecast) {
    download.fit(closed.signal).then(
      (found) => show(`${bytes(found.totalBytes)}: ${VERDICTS[found.verdict]}`, found),
      (error: unknown) => { if (!closed.signal.aborted) show(undefined, undefined, error); });
  }
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      closed.abort();
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

function hint(text: string): HTMLElement {
  return h('p', { class: 'warning' }, icon('alert'), h('span', {}, text));
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
