/** Light or dark: the system's choice until the user takes another. `public/theme.js` applies it before the first paint. */
import { iconButton, setIconButton } from './dom';

const KEY = 'lamplight.theme';

/** The button of the top bar. */
export function themeButton(): HTMLButtonElement {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => {
    const chosen = document.documentElement.dataset['theme'];
    return chosen ? chosen === 'dark' : system.matches;
  };
  const show = () => setIconButton(button, isDark() ? 'sun' : 'moon', isDark() ? 'Use the light theme' : 'Use the dark theme');
  const button = iconButton('moon', 'Use the dark theme', () => {
    const theme = isDark() ? 'light' : 'dark';
    // Choosing what the system has anyway gives the choice back to the system.
    const isSystem = (theme === 'dark') === system.matches;
    if (isSystem) delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = theme;
    try {
      if (isSystem) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // Storage is blocked: the choice holds for this visit.
    }
    show();
  });
  system.addEventListener('change', show);
  show();
  return button;
}
