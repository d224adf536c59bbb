// A browser driven by plain WebDriver, for those that no driver package knows here.
import { spawn } from 'node:child_process';
import net from 'node:net';

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Processes that end with the test, also when the runner is interrupted: nothing of them may stay behind. */
export function processes() {
  const children = [];
  const endAll = () => { for (const child of children.splice(0).reverse()) child.kill(); };
  process.once('exit', endAll);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
  return {
    endAll,
    add: (child) => { children.push(child); return child; },
    start(command, args, env) {
      const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'inherit'] });
      child.on('error', (error) => console.error(`${command}: ${error.message}`));
      children.push(child);
    },
  };
}

/** A session with the driver at `port`; `run(function, argument)` evaluates an async function in the current page. */
export async function openSession(port, alwaysMatch) {
  const command = async (method, url, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${url}`, { method, body: body && JSON.stringify(body), headers: { 'content-type': 'application/json' } });
    const { value } = await response.json();
    if (value?.error) throw new Error(`${value.error}: ${value.message}`);
    return value;
  };
  let session;
  for (let attempt = 0; !session; attempt += 1) {
    // The driver takes a moment to listen.
    session = await command('POST', '/session', { capabilities: { alwaysMatch } }).catch((error) => {
      if (attempt > 40) throw error;
      return sleep(250);
    });
  }
  const base = `/session/${session.sessionId}`;
  await command('POST', `${base}/timeouts`, { script: 600_000, pageLoad: 120_000 });
  return {
    version: session.capabilities.browserVersion,
    open: (url) => command('POST', `${base}/url`, { url }),
    async run(fn, argument) {
      const script = `const done = arguments[1];
        Promise.resolve().then(() => (${fn})(arguments[0])).then((value) => done({ value }), (error) => done({ error: \`\${error.code ?? error.name}: \${error.message}\` }));`;
      const result = await command('POST', `${base}/execute/async`, { script, args: [argument ?? null] });
      if (result?.error) throw new Error(result.error);
      return result?.value;
    },
    /** Opens a tab and goes there; gives its handle. */
    async newTab() {
      const { handle } = await command('POST', `${base}/window/new`, { type: 'tab' });
      await command('POST', `${base}/window`, { handle });
      return handle;
    },
    tab: () => command('GET', `${base}/window`),
    switchTo: (handle) => command('POST', `${base}/window`, { handle }),
    closeTab: () => command('DELETE', `${base}/window`),
    end: () => command('DELETE', base).catch(() => {}),
  };
}
