/** The question before a download: what, how much, from where, and whether this is the connection for it. */
import { fill, h, icon, uniqueId } from './dom';
import { factList } from './facts';
import { bytes } from './format';

export interface Download {
  label: string;
  /** Absolute address. */
  url: string;
  /** Of the whole file, if it is known. */
  bytes?: number | undefined;
  /** Already stored. */
  storedBytes: number;
  /** Room in the browser's storage, if it says. */
  freeBytes?: number | undefined;
  license?: string | undefined;
}

/** Not in every browser, and not in TypeScript's library. */
interface NetworkInformation {
  saveData?: boolean;
  type?: string;
  effectiveType?: string;
}

/** How long a server may take to tell a file's size. */
const SIZE_TIMEOUT_MS = 5000;

/** Why a large download may be unwelcome now, as far as the browser tells. */
export function meteredReason(): string | undefined {
  const { connection } = navigator as Navigator & { connection?: NetworkInformation };
  if (connection?.saveData) return 'Your browser is set to save data.';
  if (connection?.type === 'cellular') return 'You seem to be on mobile data.';
  if (/2g|3g/.test(connection?.effectiveType ?? '')) return 'The connection seems to be slow.';
  return undefined;
}

/** Resolves to whether the user wants the download. */
export function askForConsent(download: Download): Promise<boolean> {
  const title = h('h2', { id: uniqueId('consent-title') }, `Download ${download.label}?`);
  const facts = h('div', {});
  const hints = h('div', { class: 'consent-hints' });
  const yes = h('button', { type: 'submit', value: 'yes', class: 'button primary', autofocus: true });
  const show = (size: number | undefined, asking = false) => {
    const left = size === undefined ? undefined : Math.max(0, size - download.storedBytes);
    fill(facts, factList([
      ['Size', size === undefined ? (asking ? 'asking the server…' : 'not known') : bytes(size)],
      ['Already stored', download.storedBytes > 0 ? bytes(download.storedBytes) : undefined],
      ['From', new URL(download.url).host],
      ['Licence', download.license],
      ['Room in this browser', download.freeBytes === undefined ? undefined : `about ${bytes(download.freeBytes)}`],
    ]));
    const metered = meteredReason();
    const tooLarge = left !== undefined && download.freeBytes !== undefined && left > download.freeBytes;
    fill(hints,
      metered && hint(`${metered} ${left === undefined ? 'The download' : bytes(left)} may be costly or take long.`),
      tooLarge && hint('There is not enough room to keep the model: it would be downloaded again at every visit.'));
    fill(yes, icon('download'), left === undefined ? 'Download' : `Download ${bytes(left)}`);
  };
  const dialog: HTMLDialogElement = h('dialog', { class: 'consent', attrs: { 'aria-labelledby': title.id } },
    h('form', { method: 'dialog' },
      title,
      facts,
      hints,
      h('p', { class: 'note' }, 'The model is kept in this browser, so this happens once. You can cancel at any time: what has arrived stays, and the download goes on from there.'),
      h('div', { class: 'button-row' }, yes, h('button', { type: 'submit', value: 'no', class: 'button' }, 'Not now'))));
  show(download.bytes, download.bytes === undefined);
  if (download.bytes === undefined) void remoteSize(download.url).then((size) => show(size));
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
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

/** The size of a file, if its server tells. */
async function remoteSize(url: string): Promise<number | undefined> {
  if (url.endsWith('/')) return undefined;
  try {
    const response = await fetch(url, { method: 'HEAD', referrerPolicy: 'no-referrer', signal: AbortSignal.timeout(SIZE_TIMEOUT_MS) });
    const length = Number(response.headers.get('content-length'));
    return response.ok && length > 0 && !response.headers.has('content-encoding') ? length : undefined;
  } catch {
    return undefined;
  }
}
