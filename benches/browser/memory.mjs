// What a browser's processes have held, from the kernel's own account (Linux).
import fs from 'node:fs';

/** Highest resident memory of a profile's renderers so far, in MiB: only this session's browser has it on its command line. */
export function peakMemory(profile) {
  const processes = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const command = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
      return [{ pid, command, parent: /PPid:\s*(\d+)/.exec(status)[1], peak: Number(/VmHWM:\s*(\d+)/.exec(status)?.[1] ?? 0) / 1024 }];
    } catch {
      return [];
    }
  });
  const family = new Set(processes.filter(({ command }) => command.includes(profile)).map(({ pid }) => pid));
  for (let before = -1; before !== family.size;) {
    before = family.size;
    for (const { pid, parent } of processes) if (family.has(parent)) family.add(pid);
  }
  return Math.max(0, ...processes.filter(({ pid, command }) => family.has(pid) && command.includes('--type=renderer')).map(({ peak }) => peak));
}
