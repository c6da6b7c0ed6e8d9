"""What the page of a comparison is made of beside its contents: the frame, the style and the script."""

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
<script>
"use strict";
const gains = {gains};
{script}</script>
</body>
</html>
"""

STYLE = """
:root { --page: #f6f7f9; --card: #fff; --text: #1b1e24; --faint: #646c7a; --line: #dfe3e9; --link: #1c5fc4;
  --warn: #8a4b00; --warn-card: #fff5e5; --up: #13704f; --down: #a8324a }
@media (prefers-color-scheme: dark) {
  :root { --page: #121419; --card: #1b1e25; --text: #e8eaee; --faint: #98a0ae; --line: #2d323c; --link: #86b4ff;
    --warn: #ffc27a; --warn-card: #2b2216; --up: #5fd3a6; --down: #ff8fa6 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 110rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 0 0 .3rem } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere }
p { margin: .2rem 0 .7rem; max-width: 60rem } a { color: var(--link) } ul { padding-left: 1.2rem; max-width: 60rem }
.note, figcaption { color: var(--faint); font-size: .875rem } figcaption b { color: var(--text); font-weight: 600 }
section { margin: 2.2rem 0 } .scroll { overflow-x: auto; margin: .4rem 0 }
.warning { background: var(--warn-card); border: 1px solid var(--line); border-left: .3rem solid var(--warn);
  border-radius: .4rem; padding: .6rem .9rem; margin: .7rem 0; max-width: 60rem }
.warning b { color: var(--warn) }
table { border-collapse: collapse; font-size: .9rem; background: var(--card); border: 1px solid var(--line) }
th, td { text-align: left; padding: .35rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600 } thead th { vertical-align: bottom } th small { display: block; font-weight: 400;
  color: var(--faint); min-width: 15rem; max-width: 30rem }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } .best { font-weight: 700 }
.up { color: var(--up) } .down { color: var(--down) } .limits { color: var(--faint); font-size: .8rem }
picture img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: .5rem; display: block;
  margin: .8rem 0 }
.controls { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: center; position: sticky; top: 0; z-index: 1;
  background: var(--page); padding: .5rem 0; border-bottom: 1px solid var(--line) }
.controls label { max-width: 100% }
button, select, input[type=search] { font: inherit; font-size: .9rem; color: var(--text); background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; padding: .25rem .7rem; max-width: 100% }
button { cursor: pointer } :is(button, select, input):focus-visible { outline: 2px solid var(--link) }
.pair { margin: 1.6rem 0 } .pair h3 { margin: 0; white-space: pre-wrap } .line { display: flex; flex-wrap: wrap;
  gap: .3rem .9rem; align-items: baseline; margin-bottom: .4rem }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(11rem, 45%), 1fr)) }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  max-width: 40rem }
figcaption { padding: .4rem .7rem .5rem; overflow-wrap: anywhere }
figure video, figure img { display: block; width: 100%; height: auto; background: #000 }
.pixelated { image-rendering: pixelated }
.missing { display: grid; place-items: center; aspect-ratio: 1; color: var(--faint); padding: 1rem; text-align: center }
summary { cursor: pointer } details summary { margin-bottom: .4rem } [hidden] { display: none }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem } .controls { position: static } }
"""

# Videos are loaded when they come near the window and let go when they leave it: browsers run out of decoders when
# hundreds are open. The videos of a pair start together and are brought together again whenever the first one loops.
SCRIPT = """
const pairs = [...document.querySelectorAll(".pair")];
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const auto = document.getElementById("auto");
if (auto && still) auto.checked = false;
const films = pair => [...pair.querySelectorAll("video")];
function ready(video) {
  if (video.readyState >= 2 || video.error) return Promise.resolve();
  return new Promise(done => {
    for (const name of ["canplay", "error"]) video.addEventListener(name, done, { once: true });
  });
}
async function together(pair) {
  const videos = films(pair);
  for (const video of videos) { open(video); video.pause(); }
  await Promise.all(videos.map(ready));
  for (const video of videos) video.currentTime = 0;
  for (const video of videos) video.play().catch(() => {});
}
function open(video) { if (!video.getAttribute("src")) { video.src = video.dataset.src; video.preload = "auto"; } }
function close(video) { video.pause(); video.removeAttribute("src"); video.load(); }
for (const pair of pairs) {
  const button = pair.querySelector("button");
  const [first, ...others] = films(pair);
  if (!first) { if (button) button.hidden = true; continue; }
  button.addEventListener("click", () => {
    if (films(pair).some(video => !video.paused)) films(pair).forEach(video => video.pause());
    else together(pair);
  });
  let before = 0;
  first.addEventListener("timeupdate", () => {
    if (first.currentTime < before && !first.paused) for (const video of others) video.currentTime = first.currentTime;
    before = first.currentTime;
  });
  const label = () => {
    button.textContent = films(pair).some(video => !video.paused) ? "Pause" : "Play together";
  };
  for (const video of films(pair)) for (const name of ["play", "pause"]) video.addEventListener(name, label);
}
const watch = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) films(target).forEach(close);
    else if (auto && auto.checked) together(target);
    else films(target).forEach(open);
  }
}, { rootMargin: "200px" });
pairs.forEach(pair => watch.observe(pair));
if (auto) auto.addEventListener("change", () => {
  if (!auto.checked) document.querySelectorAll(".pair video").forEach(video => video.pause());
  else { watch.disconnect(); pairs.forEach(pair => watch.observe(pair)); }
});
for (const image of document.querySelectorAll("img[data-pages]")) {
  const pages = JSON.parse(image.dataset.pages);
  let page = 0;
  if (!still) setInterval(() => {
    if (auto && !auto.checked) return;
    page = (page + 1) % pages.length;
    image.src = pages[page];
  }, 1000 / (Number(image.dataset.fps) || 8));
}
const order = document.getElementById("order"), find = document.getElementById("find");
function arrange() {
  const [name, way] = order.value.split("|");
  const places = pairs.map((_, n) => n);
  if (way) {
    const value = n => gains[name][n];
    places.sort((a, b) => (value(a) === null) - (value(b) === null) || Number(way) * (value(a) - value(b)) || a - b);
  }
  const home = pairs[0] && pairs[0].parentNode;
  for (const n of places) home.append(pairs[n]);
  const words = find.value.toLowerCase();
  for (const pair of pairs) pair.hidden = !pair.querySelector("h3").textContent.toLowerCase().includes(words);
}
if (order) { order.addEventListener("change", arrange); find.addEventListener("input", arrange); }
"""
