// Words of a model that means harm, for the tests that show them.
/** Each tries to run a script, to load something, or to take over the page. `EXFIL` becomes an address of the test's server. */
export const HOSTILE = [
  '![x](EXFIL/a.png)',
  '![x][ref]\n\n[ref]: EXFIL/b.png',
  '<img src="EXFIL/c.png">',
  '<img src=x onerror="globalThis.owned = 1">',
  '<script>globalThis.owned = 1</script>',
  '<svg onload="globalThis.owned = 1"><use href="EXFIL/d.svg#x"/></svg>',
  '<math><mtext><style><img src=x onerror="globalThis.owned = 1"></style></mtext></math>',
  '<iframe src="EXFIL/e.html"></iframe>',
  '<iframe srcdoc="<script>parent.owned = 1</script>"></iframe>',
  '<style>@import url(EXFIL/f.css); main { background: url(EXFIL/g.png) }</style>',
  '<link rel="stylesheet" href="EXFIL/h.css">',
  '<form action="EXFIL/i"><button>Log in again</button></form>',
  '<base href="EXFIL/">',
  '<meta http-equiv="refresh" content="0;url=EXFIL/j">',
  '<video src="EXFIL/k.mp4" autoplay></video><audio src="EXFIL/l.mp3"></audio>',
  '<object data="EXFIL/m"></object><embed src="EXFIL/n">',
  '[x](javascript:globalThis.owned=1)',
  '[x](JaVaScRiPt:globalThis.owned=1)',
  '[x](data:text/html,<script>globalThis.owned=1</script>)',
  '[x](vbscript:x) <javascript:globalThis.owned=1>',
  '<a href="https://example.org" onclick="globalThis.owned = 1" style="position:fixed;inset:0">x</a>',
  '<div id="main" class="scrim" style="position:fixed;inset:0">x</div>',
  '```html" onmouseover="globalThis.owned=1\n<img src=x onerror="globalThis.owned = 1">\n```',
  '| <img src=EXFIL/o.png> |\n|---|\n| ![y](EXFIL/p.png) |',
  '<noscript><p title="</noscript><img src=x onerror=globalThis.owned=1>">',
  '&lt;img src=x onerror=globalThis.owned=1&gt;',
];
/** What no reply of a model may become in a page. */
export const FORBIDDEN = 'img,script,style,link,iframe,object,embed,video,audio,form,input,svg:not(.icon),math,base,meta,noscript,[style],[id],[onclick],[onerror]';
