// Writes a variant of webdriver.json for one browser set-up and prints its path:
//   node scripts/webdriver.mjs chrome-swiftshader|chrome-lavapipe|chrome-cpu|firefox-webgpu|firefox-cpu OUT_DIR
// Browser paths come from CHROMIUM_BIN, FIREFOX_BIN and LAVAPIPE_DIR, as scripts/lib.sh found them.
import fs from 'node:fs';
import path from 'node:path';

const [variant, outDir] = process.argv.slice(2);
const root = path.dirname(import.meta.dirname);
const config = JSON.parse(fs.readFileSync(path.join(root, 'webdriver.json'), 'utf8'));
const chrome = config['goog:chromeOptions'];
const firefox = config['moz:firefoxOptions'];
const { CHROMIUM_BIN, FIREFOX_BIN, LAVAPIPE_DIR } = process.env;
if (CHROMIUM_BIN) chrome.binary = CHROMIUM_BIN;
if (FIREFOX_BIN) firefox.binary = FIREFOX_BIN;

const withoutGpu = () => chrome.args.filter((arg) => !/webgpu/.test(arg));
const variants = {
  'chrome-swiftshader': () => {},
  'chrome-lavapipe': () => {
    chrome.binary = path.join(LAVAPIPE_DIR, 'browser', 'chromium');
    chrome.args.push('--use-angle=vulkan');
  },
  'chrome-cpu': () => { chrome.args = [...withoutGpu(), '--disable-gpu']; },
  'firefox-webgpu': () => {},
  'firefox-cpu': () => { firefox.prefs['dom.webgpu.enabled'] = false; },
};
if (!variants[variant]) throw new Error(`unknown variant ${variant}; one of ${Object.keys(variants).join(', ')}`);
variants[variant]();
fs.mkdirSync(outDir, { recursive: true });
const file = path.resolve(outDir, `webdriver-${variant}.json`);
fs.writeFileSync(file, JSON.stringify(config, null, 2));
console.log(file);
