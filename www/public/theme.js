// Before the first paint: the theme chosen on an earlier visit. A file of its own because the policy allows no inline script.
try {
  const theme = localStorage.getItem('lamplight.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's theme is used.
}
