/** Numbers as people read them. Sizes are decimal (1 MB = 1,000,000 bytes), as download sizes are. */

const number = (digits: number) => new Intl.NumberFormat('en', { maximumFractionDigits: digits });
const whole = number(0);
const one = number(1);

/** `98.2 MB`. */
export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return `${unit === 0 || scaled >= 99.95 ? whole.format(scaled) : one.format(scaled)} ${units[unit]}`;
}

/** A limit of a GPU, in binary units: `128 MiB`. */
export function binaryBytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let scaled = value;
  let unit = 0;
  while (scaled >= 1023.5 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${one.format(scaled)} ${units[unit]}`;
}

/** `134.5 M` or `8.03 B`: parameters of a model. */
export function parameters(value: number): string {
  if (value >= 1e9) return `${number(2).format(value / 1e9)} billion`;
  if (value >= 1e6) return `${one.format(value / 1e6)} million`;
  return whole.format(value);
}

/** `4,096`. */
export function count(value: number): string {
  return whole.format(value);
}

/** A speed in tokens per second, with as many digits as it deserves. */
export function rate(value: number): string {
  if (!Number.isFinite(value) || value <= 0) return '–';
  return value >= 100 ? whole.format(value) : one.format(value);
}

/** `420 ms`, `1.8 s`, `2 min 5 s`. */
export function duration(milliseconds: number): string {
  if (milliseconds < 999.5) return `${whole.format(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 59.95) return `${one.format(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  const rest = Math.round(seconds - minutes * 60);
  return rest === 60 ? `${minutes + 1} min` : `${minutes} min ${rest} s`;
}

/** `3 days ago`, for the list of stored models. */
export function ago(time: number, now = Date.now()): string {
  const steps: [number, Intl.RelativeTimeFormatUnit][] = [[60, 'second'], [60, 'minute'], [24, 'hour'], [30, 'day'], [12, 'month']];
  let value = (now - time) / 1000;
  if (value < 45) return 'just now';
  for (const [size, unit] of steps) {
    if (value < size) return relative.format(-Math.round(value), unit);
    value /= size;
  }
  return relative.format(-Math.round(value), 'year');
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** `q4_1` as model files are labelled: `Q4_1`. */
export function formatName(name: string): string {
  return name.toUpperCase();
}
