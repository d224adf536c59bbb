/** A GGUF file dropped anywhere on the page. */
import { h, icon } from './dom';

/** Shows where to drop while a file is dragged over the page, and hands over the first file. */
export function acceptDrops(take: (file: File) => void): HTMLElement {
  const overlay = h('div', { class: 'drop-overlay', hidden: true, attrs: { 'aria-hidden': 'true' } },
    h('div', { class: 'drop-card' }, icon('file'), h('p', {}, 'Drop a GGUF file to load it')));
  // dragenter and dragleave fire for every element on the way: what counts is the balance.
  let depth = 0;
  const hasFile = (event: DragEvent) => event.dataTransfer?.types.includes('Files') ?? false;
  const show = (change: number) => {
    depth = Math.max(0, depth + change);
    overlay.hidden = depth === 0;
  };
  addEventListener('dragenter', (event) => { if (hasFile(event)) show(1); });
  addEventListener('dragleave', (event) => { if (hasFile(event)) show(-1); });
  addEventListener('dragover', (event) => { if (hasFile(event)) event.preventDefault(); });
  addEventListener('drop', (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    show(-depth);
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
  return overlay;
}
