"""What index.html is made of beside its contents: the frame, the style and the script (no file but the page)."""

PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{script}</body>
</html>
"""

STYLE = """
:root { --page: #f6f7f9; --card: #fff; --text: #1b1e24; --faint: #646c7a; --line: #dfe3e9; --link: #1c5fc4 }
@media (prefers-color-scheme: dark) {
  :root { --page: #121419; --card: #1b1e25; --text: #e8eaee; --faint: #98a0ae; --line: #2d323c; --link: #86b4ff }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 110rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; white-space: pre-wrap }
p { margin: .2rem 0 .7rem } a { color: var(--link) }
.note, figcaption { color: var(--faint); font-size: .875rem } figcaption b { color: var(--text); font-weight: 600 }
section { margin: 1.8rem 0 } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; background: var(--card); border: 1px solid var(--line) }
th, td { text-align: left; padding: .35rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: anywhere; min-width: 3.5rem } th { font-weight: 600 } thead th { white-space: nowrap }
th small { display: block; font-weight: 400; color: var(--faint); min-width: 8.5rem; max-width: 34rem }
.number { text-align: right; font-variant-numeric: tabular-nums }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(9.5rem, 45%), 1fr)) }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  max-width: 40rem }
figcaption { padding: .4rem .7rem .5rem }
video, img { display: block; width: 100%; height: auto } .pixelated { image-rendering: pixelated }
.choices img { width: auto; max-width: 100%; border: 1px solid var(--line) }
.missing { display: grid; place-items: center; aspect-ratio: 1; color: var(--faint) }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem } }
summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border: 1px solid var(--line);
  padding: .7rem; font-size: .85rem }
"""

SCRIPT = """
"use strict";
const watch = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const video = entry.target;
    if (entry.isIntersecting) {
      if (!video.src && video.dataset.src) video.src = video.dataset.src;
      video.play().catch(() => {});
    } else {
      video.pause();
      if (video.dataset.src) { video.removeAttribute("src"); video.load(); }
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll("video").forEach(video => watch.observe(video));
const folders = [...document.querySelectorAll("img[data-folder]")];
let page = 0;
if (folders.length) setInterval(() => {
  page += 1;
  for (const image of folders) {
    const number = String(page %% image.dataset.frames).padStart(4, "0");
    image.src = image.dataset.folder + "/" + number + ".png";
  }
}, 1000 / %s);
"""
