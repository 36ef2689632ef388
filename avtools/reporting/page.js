"use strict";
(() => {
// ---- small tools: text becomes text nodes and attributes, never markup --------------------------------------
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
function put(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}
const el = (tag, props, ...children) => put(document.createElement(tag), props, children);
const svg = (tag, props, ...children) => put(document.createElementNS(SVG, tag), props, children);
const text = value => el("bdi", null, String(value)); // whatever direction its script has stays inside
const parse = node => JSON.parse(node.textContent);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
function num(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (Number.isInteger(x) && Math.abs(x) < 1e9) return String(x);
  const size = Math.abs(x);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? x.toExponential(2) : String(Number(x.toPrecision(digits)));
}
const many = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// ---- data ----------------------------------------------------------------------------------------------
const meta = parse($("meta"));
const GROUP = 0, KEY = 1, LABEL = 2, ERROR = 3, CELLS = 4;
const rows = [];
for (const node of document.querySelectorAll("script.light")) { for (const row of parse(node)) rows.push(row); node.remove(); }
const columns = meta.columns.map((column, k) => ({...column, at: CELLS + k, direction: meta.directions[column.name]}));
const named = new Map(columns.map(column => [column.name, column]));
const numbers = columns.filter(column => column.kind === "number");
const scores = columns.filter(column => column.score);
const categories = columns.filter(column => column.kind === "category");
const captions = meta.captions.map(name => named.get(name)).filter(Boolean);
const words = columns.filter(column => column.kind !== "number");
const entries = []; // lists of row numbers that stand side by side
rows.forEach((row, i) => { if (i && rows[i - 1][GROUP] === row[GROUP]) entries[entries.length - 1].push(i); else entries.push([i]); });
const labels = meta.group && meta.label ? [...new Set(rows.map(row => row[LABEL]).filter(label => label !== null))] : [];
const looks = new Map(); // the last used parts of the heavy data, parsed
function look(i) {
  const part = Math.floor(i / meta.heavy);
  let found = looks.get(part);
  if (!found) found = parse($(`h${part}`)); else looks.delete(part);
  looks.set(part, found);
  if (looks.size > 12) looks.delete(looks.keys().next().value);
  return found[i % meta.heavy];
}
const finder = [];
const sought = i => finder[i] ??= [rows[i][KEY], rows[i][LABEL], rows[i][ERROR], ...words.map(column => rows[i][column.at])].filter(Boolean).join("\n").toLowerCase();

// ---- players: one at a time --------------------------------------------------------------------------------
const settings = {loop: false, speed: 1, volume: 1};
let playing = null;
const ICONS = {play: "M4 2l12 7-12 7z", pause: "M3 2h4v14H3zM11 2h4v14h-4z"};
const icon = name => svg("svg", {viewBox: "0 0 18 18", "aria-hidden": "true"}, svg("path", {d: ICONS[name]}));
const STEP = 50, FAR = 0.15, NEAR = 0.008; // ms between looks at the drift; seconds of it that are jumped over, and that are left

class Player {
  constructor(sample, title, card) {
    Object.assign(this, {sample, title, card, seconds: sample.seconds || 0, media: [], urls: []});
    const [width, height] = sample.size || [16, 9];
    this.button = el("button", {type: "button", class: "play", "aria-label": `Play ${title}`, onclick: () => this.toggle()}, icon("play"));
    this.clock = el("span", {class: "clock", "aria-hidden": "true"}, this.stamp(0));
    this.screen = el("div", {class: "screen" + (sample.size ? "" : " sound"), style: sample.size && `aspect-ratio:${width}/${height}`}, this.button, this.clock);
    this.screen.addEventListener("click", event => { if (event.target === this.screen || event.target.tagName !== "BUTTON" && !event.target.closest("button")) this.toggle(); });
    this.playable = !!(sample.video || sample.audio);
    if (!this.playable) { this.button.remove(); this.clock.remove(); }
    if (sample.poster) this.poster = `data:image/jpeg;base64,${sample.poster}`;
    if (this.poster) this.screen.prepend(el("img", {src: this.poster, alt: ""}));
    this.line = el("div", {class: "head-line", hidden: true});
  }
  stamp(time) { return `${time.toFixed(2)} / ${this.seconds.toFixed(2)} s`; }
  url(medium) {
    if (medium.href !== undefined) return medium.href;
    const raw = atob($(`m${medium.id}`).textContent), bytes = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
    this.urls.push(URL.createObjectURL(new Blob([bytes], {type: medium.type})));
    return this.urls[this.urls.length - 1];
  }
  // The elements are made when the clip is looked at; what is theirs to load is loaded when it is played.
  fill() {
    if (this.filled || this.gone) return;
    this.filled = true;
    const {video, audio, image} = this.sample;
    if (image) this.screen.prepend(el("img", {src: this.url(image), alt: `Picture of ${this.title}`, onerror: event => { event.target.remove(); this.fail(); }}));
    if (video) {
      this.video = el("video", {preload: "none", playsinline: true, src: this.url(video), poster: this.poster, "aria-label": this.title, tabindex: "-1"});
      this.video.muted = !!audio;
      this.screen.querySelector("img")?.remove();
      this.screen.prepend(this.video);
      this.media.push(this.video);
    }
    if (audio) {
      this.audio = el("audio", {preload: "none", src: this.url(audio)});
      this.screen.append(this.audio);
      this.media.push(this.audio);
    }
    this.main = this.video || this.audio;
    for (const medium of this.media) {
      medium.addEventListener("error", () => this.fail(medium));
      medium.addEventListener("ended", () => this.end());
    }
    if (this.main) {
      this.main.addEventListener("pause", () => { if (this.main.paused && !this.main.ended) this.pause(); }); // an event may come late
      this.main.addEventListener("seeking", () => this.follow());
      this.main.addEventListener("waiting", () => this.audio && this.video && this.audio.pause());
      this.main.addEventListener("playing", () => { if (this.on) { this.keep(); if (this.audio && this.video && !this.audio.ended) this.audio.play().catch(() => {}); } });
    }
  }
  fail(medium) {
    const code = medium && medium.error ? medium.error.code : 0;
    this.pause();
    const reason = code === 2 ? "it could not be read" : "it is not there, or of a kind that this browser does not play";
    if (!this.failed) this.screen.after(this.failed = el("p", {class: "error", role: "alert"}, `Cannot be played here: ${reason}. `, text(decoded(this.sample))));
  }
  get time() { return !this.main ? 0 : this.main.ended && this.audio && this.audio !== this.main ? this.audio.currentTime : this.main.currentTime; }
  apply() {
    for (const medium of this.media) { medium.playbackRate = settings.speed; medium.volume = settings.volume; medium.preservesPitch = true; }
  }
  toggle() { if (this.on) this.pause(); else this.play(); }
  play(from) {
    this.fill();
    if (!this.main) return;
    if (playing && playing !== this) playing.pause();
    playing = this;
    this.on = true;
    this.apply();
    if (from !== undefined) this.seek(from);
    else if (this.main.ended || this.seconds && this.time >= this.seconds - 0.03) this.seek(0);
    this.keep();
    this.main.play().catch(error => { if (error.name !== "AbortError") this.on && this.pause(); });
    if (this.audio && this.video) this.audio.play().catch(() => {});
    this.show();
    clearInterval(this.timer);
    this.timer = setInterval(() => this.keep(), STEP);
    this.tick();
  }
  pause() {
    if (!this.on) return;
    this.on = false;
    clearInterval(this.timer);
    for (const medium of this.media) if (!medium.paused) medium.pause();
    this.show();
    this.draw();
  }
  end() {
    if (this.video && this.audio && !(this.video.ended && (this.audio.ended || this.audio.error))) { // the longer one goes on
      if (this.video.ended && !this.audio.ended) return;
      if (!this.video.ended) return;
    }
    if (settings.loop) { this.seek(0); this.on = false; this.play(); } else this.pause();
  }
  seek(time) {
    this.fill();
    if (!this.main) return;
    for (const medium of this.media) { if (medium.preload === "none") medium.preload = "auto"; medium.currentTime = Math.max(0, time); }
    this.draw(time);
  }
  follow() { if (this.audio && this.video && !this.main.ended && Math.abs(this.audio.currentTime - this.video.currentTime) > 0.02) this.audio.currentTime = this.video.currentTime; }
  // The sound beside the picture: large drifts are jumped over, small ones run down by a slightly other speed
  keep() {
    if (!this.audio || !this.video || this.video.ended || this.audio.ended || this.video.seeking || this.audio.seeking) return;
    const drift = this.audio.currentTime - this.video.currentTime;
    if (Math.abs(drift) > FAR) { this.audio.currentTime = this.video.currentTime; this.audio.playbackRate = settings.speed; }
    else this.audio.playbackRate = settings.speed * (Math.abs(drift) > NEAR ? 1 - clamp(drift * 5, -0.15, 0.15) : 1);
  }
  tick() { if (!this.on) return; this.draw(); requestAnimationFrame(() => this.tick()); }
  draw(at = this.time) {
    const share = this.seconds ? clamp(at / this.seconds, 0, 1) : 0;
    this.line.hidden = !this.main;
    this.line.style.left = `${share * 100}%`;
    this.clock.textContent = this.stamp(at);
    if (this.slider) { this.slider.setAttribute("aria-valuenow", at.toFixed(2)); this.slider.setAttribute("aria-valuetext", this.stamp(at)); }
  }
  show() {
    this.card.classList.toggle("playing", !!this.on);
    this.button.setAttribute("aria-label", `${this.on ? "Pause" : "Play"} ${this.title}`);
    this.button.replaceChildren(icon(this.on ? "pause" : "play"));
  }
  close() {
    this.gone = true;
    this.pause();
    if (playing === this) playing = null;
    for (const medium of this.media) { medium.removeAttribute("src"); medium.load(); medium.remove(); }
    for (const url of this.urls) URL.revokeObjectURL(url);
  }
}
function decoded(sample) {
  const medium = sample.video || sample.audio || sample.image || {};
  try { return decodeURIComponent(medium.href || ""); } catch { return medium.href || ""; }
}

const seen = new IntersectionObserver(list => {
  for (const entry of list) if (entry.isIntersecting) { seen.unobserve(entry.target); entry.target.player.fill(); }
}, {rootMargin: "200px"});

// ---- the time line under a clip: spectrogram, onsets, events, motion ------------------------------------------
const percent = x => `${(x * 100).toFixed(3)}%`;
function timeline(sample, events, player) {
  const total = sample.seconds || 1;
  const span = ([from, to]) => `left:${percent(from / total)};width:${percent((to - from) / total)}`;
  const box = el("div", {class: "time", role: "slider", tabindex: "0", "aria-label": `Time in ${player.title}`, "aria-valuemin": "0", "aria-valuemax": total.toFixed(2), "aria-valuenow": "0"});
  if (sample.spectrum) {
    const marks = [...(sample.onsets || []).map(time => ["onset", time]), ...events.map(time => ["event", time])].filter(([, time]) => time <= total);
    const told = `Spectrogram; ${many((sample.onsets || []).length, "onset")}${events.length ? `, ${many(events.length, "event")}` : ""}`;
    box.append(el("div", {class: "spectrum"}, el("img", {src: `data:image/png;base64,${sample.spectrum}`, alt: told, style: span(sample.heard), draggable: "false"}),
      marks.map(([kind, time]) => el("i", {class: `mark ${kind}`, style: `left:${percent(time / total)}`, title: `${kind} at ${time} s`}))));
  } else if (!sample.image) box.append(el("div", {class: "spectrum none"}, "no sound"));
  if (sample.motion) {
    const values = atob(sample.motion[1]), n = values.length;
    let d = "M0 100";
    for (let k = 0; k < n; k++) d += `L${((k + 0.5) / n * 100).toFixed(2)} ${(100 - values.charCodeAt(k) / 2.55).toFixed(1)}`;
    box.append(el("div", {class: "motion", title: "Mean optical flow, pixels per frame"}, put(svg("svg", {viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `Motion, at most ${num(sample.motion[0], 3)} pixels per frame`, style: span(sample.seen)}), null, [svg("path", {d: d + "L100 100"})]),
      el("span", {"aria-hidden": "true"}, `motion ≤ ${num(sample.motion[0], 2)} px`)));
  }
  box.append(player.line);
  player.slider = box;
  if (!player.playable) return box;
  const at = event => { const {left, width} = box.getBoundingClientRect(); player.seek(clamp((event.clientX - left) / width, 0, 1) * total); };
  box.addEventListener("pointerdown", event => { if (event.button) return; at(event); box.setPointerCapture(event.pointerId); box.focus({preventScroll: true}); });
  box.addEventListener("pointermove", event => { if (event.buttons & 1 && box.hasPointerCapture(event.pointerId)) at(event); });
  box.addEventListener("keydown", event => {
    const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (way) { player.seek(clamp(player.time + way * total / (event.shiftKey ? 100 : 10), 0, total)); event.preventDefault(); event.stopPropagation(); }
    else if (event.key === "Home" || event.key === "End") { player.seek(event.key === "Home" ? 0 : total); event.preventDefault(); event.stopPropagation(); }
  });
  return box;
}

// ---- an entry: rows side by side -------------------------------------------------------------------------------
function scoreList(i, best) {
  const list = scores.filter(column => rows[i][column.at] !== null);
  return list.length ? el("dl", {class: "scores"}, list.map(column => {
    const first = best && best.get(column) === rows[i][column.at];
    return el("div", {class: first && "best", title: column.direction && `${column.direction} is better`}, el("dt", null, text(column.name)), el("dd", null, num(rows[i][column.at]), first && el("span", {class: "sr"}, " (best)")));
  })) : null;
}
function cellList(i) {
  const shown = columns.filter(column => !column.score && !captions.includes(column) && rows[i][column.at] !== null);
  if (!shown.length) return null;
  const box = el("details", {class: "cells"}, el("summary", null, many(shown.length, "more cell")));
  box.addEventListener("toggle", () => { // made when asked for
    if (box.open && box.children.length < 2) box.append(el("dl", null, shown.map(column => [el("dt", null, text(column.name)), el("dd", null, column.kind === "number" ? num(rows[i][column.at], 7) : text(rows[i][column.at]))])));
  });
  return box;
}
const caption = i => captions.map(column => rows[i][column.at]).filter(Boolean);
function captionBox(lines) { return lines.length ? el("p", {class: "caption", dir: "auto"}, text(lines[0]), lines.slice(1).map(line => el("small", {dir: "auto"}, text(line)))) : null; }
function sampleCard(sample, name, tag, events, title, players, below) {
  const card = el("div", {class: "sample"});
  const player = new Player(sample, title, card);
  players.push(player);
  put(card, null, [(name || tag) && el("h3", null, name && el("span", {class: "name"}, text(name)), tag && el("span", {class: `tag ${tag}`}, tag)), player.screen, timeline(sample, events, player),
    el("p", {class: "facts"}, sample.facts), sample.note && el("p", {class: "note warn"}, sample.note), below]);
  card.player = player;
  seen.observe(card);
  return card;
}
function article(k) {
  const list = entries[k], first = rows[list[0]];
  const node = el("article", {tabindex: "-1", "data-entry": k, "aria-label": `Row ${list[0] + 1}, ${first[KEY]}`});
  const players = node.players = [];
  const same = list.length > 1 && list.every(i => caption(i).join("\n") === caption(list[0]).join("\n"));
  const found = list.map(look);
  const group = list.length > 1;
  const keys = new Set(list.map(i => rows[i][KEY]));
  node.append(el("div", {class: "head"}, el("span", {class: "number"}, group ? `#${list[0] + 1}–${list[list.length - 1] + 1}` : `#${list[0] + 1}`), el("span", {class: "key", title: first[KEY]}, text(keys.size === 1 ? first[KEY] : `${first[KEY]} …`)), (same || group) && captionBox(same ? caption(list[0]) : [])));
  const grid = el("div", {class: "samples"});
  const best = new Map();
  if (group) for (const column of scores) if (column.direction) {
    const values = list.map(i => rows[i][column.at]).filter(x => x !== null);
    if (values.length > 1 && new Set(values).size > 1) best.set(column, column.direction === "higher" ? Math.max(...values) : Math.min(...values));
  }
  let truth = null;
  const truthOf = told => told && told.samples.find(sample => sample.role === "true");
  const places = list.map((i, n) => {
    const name = group ? rows[i][LABEL] ?? String(n + 1) : "";
    return {i, name, told: found[n]};
  });
  const truths = places.map(place => truthOf(place.told)).filter(Boolean).map(sample => JSON.stringify([sample.video, sample.audio, sample.image]));
  const shared = new Set(truths).size === 1;
  const lone = !group && !(found[0] && found[0].samples.length > 1);
  for (const {i, name, told} of places) {
    const title = [name, rows[i][KEY]].filter(Boolean).join(" of ");
    const own = group ? [!same && captionBox(caption(i)), scoreList(i, best), cellList(i)] : lone ? [captionBox(caption(i)), scoreList(i), cellList(i)] : [];
    if (!told || rows[i][ERROR]) { grid.append(el("div", {class: "sample"}, name && el("h3", null, text(name)), el("p", {class: "error"}, text(rows[i][ERROR] || "nothing to show")), own)); continue; }
    for (const sample of told.samples) {
      if (sample.role === "true" && shared) { truth ??= [sample, told.events, i]; continue; }
      grid.append(sampleCard(sample, name, sample.role, told.events, sample.role ? `${sample.role} ${title}` : title, players, sample.role === "true" ? null : own));
    }
  }
  if (truth) grid.append(sampleCard(truth[0], group ? "" : "", "true", truth[1], `true ${rows[truth[2]][KEY]}`, players, null));
  if (!group && !lone) grid.append(el("div", {class: "meta"}, captionBox(caption(list[0])), scoreList(list[0]), cellList(list[0])));
  if (!group) grid.classList.add(lone ? "one" : "two");
  node.append(grid);
  return node;
}

// ---- the list: only what is near the window is in the document ------------------------------------------------
const list = $("list"), GAP = 14, AHEAD = 600;
const heights = new Float64Array(entries.length).fill(380);
let order = entries.map((_, k) => k), tops = new Float64Array(1), current = -1, place = new Map();
const shown = new Map(); // entry -> its node
const sizes = new ResizeObserver(items => {
  let changed = false, above = 0;
  const top = window.scrollY - list.offsetTop - offset(list.offsetParent);
  for (const item of items) {
    const k = Number(item.target.dataset.entry), height = item.target.offsetHeight;
    if (!shown.has(k) || !height || Math.abs(heights[k] - height) < 0.5) continue;
    if (tops[place.get(k)] + heights[k] <= top) above += height - heights[k];
    heights[k] = height;
    changed = true;
  }
  if (changed) { layout(); if (above) window.scrollBy(0, above); render(); }
});
function offset(node) { return node ? node.offsetTop + offset(node.offsetParent) : 0; }
function layout() {
  tops = new Float64Array(order.length + 1);
  order.forEach((k, n) => { tops[n + 1] = tops[n] + heights[k] + GAP; });
  list.style.height = `${tops[order.length]}px`;
  for (const [k, node] of shown) if (place.has(k)) node.style.top = `${tops[place.get(k)]}px`;
}
function at(y) { let low = 0, high = order.length; while (low < high) { const middle = (low + high) >> 1; if (tops[middle + 1] > y) high = middle; else low = middle + 1; } return low; }
function drop(k, node) { for (const player of node.players) player.close(); for (const card of node.querySelectorAll(".sample")) seen.unobserve(card); sizes.unobserve(node); node.remove(); shown.delete(k); }
function render() {
  const top = window.scrollY - offset(list);
  const from = at(Math.max(0, top - AHEAD)), to = Math.min(order.length, at(top + window.innerHeight + AHEAD) + 1);
  const wanted = new Set(order.slice(from, to));
  if (current >= 0 && place.has(current)) wanted.add(current); // keeps the focus, and what plays
  for (const [k, node] of shown) if (!wanted.has(k)) drop(k, node);
  let before = null;
  for (const n of [...wanted].map(k => place.get(k)).sort((a, b) => a - b)) {
    const k = order[n];
    let node = shown.get(k);
    if (!node) { node = article(k); node.style.top = `${tops[n]}px`; shown.set(k, node); sizes.observe(node); }
    if (node.previousElementSibling !== before || !node.parentNode) { if (before) before.after(node); else list.prepend(node); } // tabbing and readers follow the document
    node.setAttribute("aria-posinset", n + 1);
    node.setAttribute("aria-setsize", order.length);
    node.classList.toggle("now", k === current);
    before = node;
  }
}
let due = false;
const soon = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; render(); }); } };
window.addEventListener("scroll", soon, {passive: true});
window.addEventListener("resize", soon);
list.addEventListener("focusin", event => choose(Number(event.target.closest("article")?.dataset.entry ?? -1)));
list.addEventListener("pointerdown", event => choose(Number(event.target.closest("article")?.dataset.entry ?? -1)));
function choose(k) { if (k < 0 || k === current) return; shown.get(current)?.classList.remove("now"); current = k; shown.get(k)?.classList.add("now"); }
function go(way) {
  if (!order.length) return;
  const here = place.has(current) ? place.get(current) : at(window.scrollY - offset(list)) - (way > 0 ? 1 : 0);
  const n = clamp(here + way, 0, order.length - 1);
  choose(order[n]);
  window.scrollTo({top: offset(list) + tops[n] - $("bar").offsetHeight - 10});
  render();
  shown.get(order[n])?.focus({preventScroll: true});
}

// ---- sorting, searching, filtering -----------------------------------------------------------------------------
const state = {search: "", ranges: new Map(), values: new Map(), sort: "", down: false};
const matches = new Uint8Array(rows.length).fill(1);
function passes(i) {
  const row = rows[i];
  for (const [column, [low, high]] of state.ranges) { const x = row[column.at]; if (x === null || x < low || x > high) return false; }
  for (const [column, values] of state.values) if (!values.has(row[column.at] ?? "")) return false;
  return state.search.every === undefined || state.search.every(word => sought(i).includes(word));
}
function mean(list, column) {
  let sum = 0, n = 0;
  for (const i of list) { const x = rows[i][column.at]; if (x !== null && matches[i]) { sum += x; n++; } }
  return n ? sum / n : null;
}
function update() {
  for (let i = 0; i < rows.length; i++) matches[i] = passes(i) ? 1 : 0;
  order = entries.map((_, k) => k).filter(k => entries[k].some(i => matches[i]));
  if (state.sort === "key") { const keyed = k => rows[entries[k][0]][KEY]; order.sort((a, b) => keyed(a).localeCompare(keyed(b), "en", {numeric: true})); }
  else if (state.sort) {
    const values = new Map(order.map(k => [k, mean(entries[k], named.get(state.sort))]));
    order.sort((a, b) => { const x = values.get(a), y = values.get(b); return x === null ? (y === null ? a - b : 1) : y === null ? -1 : state.down ? y - x || a - b : x - y || a - b; });
  }
  if (state.down && (!state.sort || state.sort === "key")) order.reverse();
  place = new Map(order.map((k, n) => [k, n]));
  for (const [k, node] of [...shown]) if (!place.has(k)) drop(k, node);
  if (current >= 0 && !place.has(current)) current = -1;
  $("nothing").hidden = order.length > 0;
  const kept = matches.reduce((a, b) => a + b, 0);
  count.textContent = kept === rows.length ? many(rows.length, "row") : `${kept.toLocaleString("en")} of ${many(rows.length, "row")}`;
  layout();
  render();
  chips();
  for (const draw of drawn) draw();
}
const drawn = []; // what shows the rows that are left
let later = 0;
const updateSoon = () => { clearTimeout(later); later = setTimeout(update, 120); };
const count = el("span", {id: "count", role: "status"});
const chipBox = el("span", {id: "chips"});
function chips() {
  const made = [];
  const chip = (label, off) => el("button", {type: "button", "aria-label": `Remove the filter ${label}`, onclick: off}, `${label}  ×`);
  for (const [column, [low, high]] of state.ranges) made.push(chip(`${column.name}: ${low === -Infinity ? "" : num(low)} … ${high === Infinity ? "" : num(high)}`, () => { state.ranges.delete(column); filters(); update(); }));
  for (const [column, values] of state.values) made.push(chip(`${column.name}: ${[...values].map(value => value || "(empty)").join(", ") || "none"}`, () => { state.values.delete(column); filters(); update(); }));
  chipBox.replaceChildren(...made);
}
function filters() {
  const box = $("filters");
  box.replaceChildren(...[...scores, ...numbers.filter(column => !column.score)].map(column => {
    const range = state.ranges.get(column) || [-Infinity, Infinity];
    const field = (n, word) => el("input", {type: "number", step: "any", placeholder: word, "aria-label": `${column.name}, ${word}`, value: Number.isFinite(range[n]) ? range[n] : null, oninput: event => {
      const now = state.ranges.get(column) || [-Infinity, Infinity], value = event.target.value === "" ? (n ? Infinity : -Infinity) : Number(event.target.value);
      const next = n ? [now[0], value] : [value, now[1]];
      if (next[0] === -Infinity && next[1] === Infinity) state.ranges.delete(column); else state.ranges.set(column, next);
      updateSoon();
    }});
    return el("fieldset", null, el("legend", null, text(column.name)), el("div", {class: "range"}, field(0, "from"), "–", field(1, "to")));
  }), ...categories.map(column => {
    const counts = new Map();
    for (const row of rows) counts.set(row[column.at] ?? "", (counts.get(row[column.at] ?? "") || 0) + 1);
    const values = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
    const on = state.values.get(column);
    return el("fieldset", null, el("legend", null, text(column.name)), el("div", {class: "values"}, values.map(value => {
      const tick = el("input", {type: "checkbox", onchange: () => {
        const now = new Set(state.values.get(column) || []);
        if (tick.checked) now.add(value); else now.delete(value);
        if (now.size) state.values.set(column, now); else state.values.delete(column);
        update();
      }});
      tick.checked = !!on && on.has(value);
      return el("label", null, tick, text(value || "(empty)"), el("span", null, counts.get(value)));
    })));
  }));
}
function clear() { state.search = ""; state.ranges.clear(); state.values.clear(); search.value = ""; filters(); update(); }
const search = el("input", {type: "search", placeholder: "Search captions, names, cells", "aria-label": "Search", oninput: () => { state.search = search.value.toLowerCase().split(/\s+/).filter(Boolean); updateSoon(); }});
function bar() {
  const sort = el("select", {"aria-label": "Sort by", onchange: () => { state.sort = sort.value; const column = named.get(sort.value); if (column) { state.down = column.direction === "higher"; turn(); } update(); }},
    el("option", {value: ""}, "table order"), el("option", {value: "key"}, "name"), [...scores, ...numbers.filter(column => !column.score)].map(column => el("option", {value: column.name}, column.name + (entries.length < rows.length ? " (mean of group)" : ""))));
  const way = el("button", {type: "button", onclick: () => { state.down = !state.down; turn(); update(); }});
  const turn = () => { way.textContent = state.down ? "↓" : "↑"; way.setAttribute("aria-label", state.down ? "Descending; make it ascending" : "Ascending; make it descending"); };
  turn();
  const panel = el("button", {type: "button", "aria-expanded": "false", "aria-controls": "filters", onclick: () => { const open = $("filters").hidden; $("filters").hidden = !open; panel.setAttribute("aria-expanded", open); if (open) filters(); soon(); }}, "Filters");
  const loop = el("button", {type: "button", id: "loop", "aria-pressed": "false", onclick: () => { settings.loop = !settings.loop; loop.setAttribute("aria-pressed", settings.loop); }}, "Loop");
  const speed = el("select", {"aria-label": "Speed", onchange: () => { settings.speed = Number(speed.value); playing?.apply(); }}, [0.25, 0.5, 1, 1.5, 2].map(x => el("option", {value: x, selected: x === 1}, `${x}×`)));
  const volume = el("input", {type: "range", min: "0", max: "1", step: "0.05", value: "1", "aria-label": "Volume", oninput: () => { settings.volume = Number(volume.value); playing?.apply(); }});
  put($("bar"), null, [search, el("label", null, "Sort", sort), way, (numbers.length || categories.length) ? panel : null, chipBox, count, loop, speed, el("label", null, el("span", {class: "sr"}, "Volume"), volume)]);
}

// ---- keys ------------------------------------------------------------------------------------------------------
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select, textarea"), key = event.key;
  if (field) { if (key === "Escape") field.blur(); return; }
  const here = shown.get(current) || shown.get(order[at(window.scrollY - offset(list) + $("bar").offsetHeight)]);
  const players = here ? here.players.filter(player => player.playable) : [];
  const active = playing && players.includes(playing) ? playing : event.target.closest(".sample")?.player || players[0];
  if (key === "j" || key === "k") go(key === "j" ? 1 : -1);
  else if (key === " " && !event.target.closest("button, summary, a")) { if (playing?.on) playing.pause(); else active?.toggle(); }
  else if (/^[1-9]$/.test(key)) players[key - 1]?.play(0);
  else if ((key === "ArrowLeft" || key === "ArrowRight") && active && !event.target.closest("summary")) active.seek(clamp(active.time + (key === "ArrowLeft" ? -1 : 1) * active.seconds / 10, 0, active.seconds));
  else if (key === "l") $("loop").click();
  else if (key === "/") search.focus();
  else return;
  event.preventDefault();
});

// ---- charts ----------------------------------------------------------------------------------------------------
function ticks(low, high, most) {
  const raw = (high - low) / most || 1, unit = 10 ** Math.floor(Math.log10(raw)), step = unit * [1, 2, 2.5, 5, 10].find(f => f * unit >= raw * 0.999);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-9; x += step) found.push(Math.abs(x) < step * 1e-6 ? 0 : x);
  return found;
}
function edges(values, most) { // of a histogram: between whole numbers where there are only such
  let low = Infinity, high = -Infinity, whole = true;
  for (const x of values) { if (x < low) low = x; if (x > high) high = x; whole &&= Number.isInteger(x); }
  if (!(high >= low)) return null;
  if (whole && high - low < 1e9) { const step = Math.ceil((high - low + 1) / most), n = Math.ceil((high - low + 1) / step); return Array.from({length: n + 1}, (_, k) => low - 0.5 + step * k); }
  if (low === high) return [low - 0.5, low + 0.5];
  return Array.from({length: most + 1}, (_, k) => k === most ? high : low + (high - low) * k / most);
}
function binned(values, bounds) {
  const n = bounds.length - 1, low = bounds[0], width = (bounds[n] - low) / n, counts = new Array(n).fill(0);
  for (const x of values) { const k = Math.min(n - 1, Math.floor((x - low) / width)); if (k >= 0 && x <= bounds[n] + width * 1e-9) counts[k]++; }
  return counts;
}
function histogram(bounds, all, here, pick, caption, note) {
  const W = 300, H = 96, n = all.length, top = Math.max(1, ...all), x = value => (value - bounds[0]) / (bounds[n] - bounds[0]) * W, y = value => H * (1 - value / top);
  const bars = (counts, kind) => counts.map((value, k) => value ? svg("rect", {class: kind, x: x(bounds[k]) + 0.5, width: Math.max(0.5, W / n - 1), y: y(value), height: H - y(value)}) : null);
  const hits = pick ? all.map((value, k) => { const hit = svg("rect", {class: "hit", x: x(bounds[k]), width: W / n, y: 0, height: H}); hit.append(svg("title", null, `${num(bounds[k])} … ${num(bounds[k + 1])}: ${many(value, "row")}; a click filters`)); hit.addEventListener("click", () => pick(bounds[k], bounds[k + 1])); return hit; }) : [];
  const whole = bounds.length > 1 && Number.isInteger(bounds[0] + 0.5) && Number.isInteger(bounds[1] + 0.5);
  const marks = ticks(bounds[0], bounds[n], 4).filter(value => !whole || Number.isInteger(value));
  return el("figure", null, el("figcaption", null, text(caption), el("span", null, note)), svg("svg", {viewBox: `-2 -4 ${W + 4} ${H + 22}`, role: "img", "aria-label": `Histogram of ${caption}`}, svg("line", {class: "grid", x1: 0, x2: W, y1: H, y2: H}), bars(all, here ? "all" : "here"), here ? bars(here, "here") : null,
    marks.map(value => svg("text", {x: x(value), y: H + 14, "text-anchor": "middle"}, num(value, 3))), hits));
}
function curves(caption, series) { // series: {name, color, dash, points}
  const W = 340, H = 150, left = 44, points = series.flatMap(one => one.points);
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of points) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  if (y0 === y1) { const pad = Math.abs(y0) * 0.1 || 1; y0 -= pad; y1 += pad; }
  const X = x => left + (x - x0) / (x1 - x0) * (W - left), Y = y => H - (y - y0) / (y1 - y0) * H;
  const last = series.map(one => `${one.name}: ${num(one.points[one.points.length - 1][1])}`).join(", ");
  return el("figure", null, el("figcaption", null, text(caption), el("span", null, series.length === 1 ? `last ${num(series[0].points[series[0].points.length - 1][1])}` : "")),
    svg("svg", {viewBox: `0 -6 ${W + 6} ${H + 26}`, role: "img", "aria-label": `${caption} by step; at the end ${last}`},
      ticks(y0, y1, 4).map(y => [svg("line", {class: "grid", x1: left, x2: W, y1: Y(y), y2: Y(y)}), svg("text", {x: left - 6, y: Y(y) + 4, "text-anchor": "end"}, num(y, 3))]),
      ticks(x0, x1, 4).map(x => svg("text", {x: X(x), y: H + 16, "text-anchor": "middle"}, num(x, 5))),
      series.map(one => one.points.length === 1 ? svg("circle", {cx: X(one.points[0][0]), cy: Y(one.points[0][1]), r: 2.5, style: `fill:${one.color}`}) :
        svg("path", {class: "curve", style: `stroke:${one.color}`, "stroke-dasharray": one.dash, d: one.points.map(([x, y], k) => `${k ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("")}, svg("title", null, one.name)))));
}
function part(title, note, open, ...body) {
  const inside = el("div", {class: "body"}, body);
  const node = el("details", {class: "part", open}, el("summary", null, el("h2", null, title), el("span", {class: "soft"}, note)), inside);
  node.addEventListener("toggle", soon);
  $("parts").append(node);
  return inside;
}
const COLOURS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];

// ---- what the rows that are left come to -------------------------------------------------------------------------
function described(values) {
  const n = values.length;
  if (!n) return null;
  const sorted = Float64Array.from(values).sort();
  const mean = sorted.reduce((a, b) => a + b, 0) / n;
  const std = n > 1 ? Math.sqrt(sorted.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1)) : null;
  const median = n % 2 ? sorted[(n - 1) / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  return {n, mean, std, half: n > 1 ? 1.96 * std / Math.sqrt(n) : null, low: sorted[0], high: sorted[n - 1], median};
}
const arrow = direction => direction === "higher" ? " ↑" : direction === "lower" ? " ↓" : "";
function plusMinus(told) { return told ? [num(told.mean), told.half !== null && el("span", {class: "pm"}, ` ± ${num(told.half, 2)}`)] : "–"; }
function summaryOfRows() {
  if (!numbers.length) return;
  const chosen = scores.length ? scores : numbers;
  const body = part("Numbers", "mean ± half of the 95 % interval, of the rows that are shown", scores.length > 0);
  const byLabel = el("div", {class: "scroll"}), table = el("div", {class: "scroll"}), charts = el("div", {class: "charts"});
  body.append(byLabel, table, charts);
  if (labels.length > 1 && labels.length <= 24) drawn.push(() => {
    const told = labels.map(label => chosen.map(column => { const values = []; rows.forEach((row, i) => { if (matches[i] && row[LABEL] === label && row[column.at] !== null) values.push(row[column.at]); }); return described(values); }));
    const best = chosen.map((column, c) => { const means = told.map(line => line[c]?.mean).filter(x => x !== undefined); return column.direction && means.length > 1 ? (column.direction === "higher" ? Math.max(...means) : Math.min(...means)) : null; });
    byLabel.replaceChildren(el("table", null, el("thead", null, el("tr", null, el("th", {scope: "col"}, text(meta.label)), el("th", {scope: "col"}, "rows"), chosen.map(column => el("th", {scope: "col"}, text(column.name), arrow(column.direction))))),
      el("tbody", null, labels.map((label, n) => el("tr", null, el("th", {scope: "row"}, text(label)), el("td", null, rows.reduce((sum, row, i) => sum + (matches[i] && row[LABEL] === label ? 1 : 0), 0)), told[n].map((one, c) => el("td", {class: one && one.mean === best[c] && "best"}, plusMinus(one))))))));
  });
  const values = column => { const found = []; for (let i = 0; i < rows.length; i++) if (matches[i] && rows[i][column.at] !== null) found.push(rows[i][column.at]); return found; };
  const bounds = new Map(chosen.map(column => { const every = rows.map(row => row[column.at]).filter(x => x !== null); const b = edges(every, 30); return [column, b && [b, binned(every, b)]]; }));
  drawn.push(() => {
    const found = chosen.map(column => [column, values(column)]);
    if (!(labels.length > 1)) table.replaceChildren(el("table", null, el("thead", null, el("tr", null, ["", "mean", "std", "min", "median", "max", "rows"].map(name => el("th", {scope: "col"}, name)))),
      el("tbody", null, found.map(([column, list]) => { const told = described(list); return el("tr", null, el("th", {scope: "row"}, text(column.name), arrow(column.direction)), told ? [plusMinus(told), num(told.std), num(told.low), num(told.median), num(told.high), told.n].map(cell => el("td", null, cell)) : ["–", "", "", "", "", 0].map(cell => el("td", null, cell))); }))));
    charts.replaceChildren(...found.map(([column, list]) => { const one = bounds.get(column); return one && one[1].length > 1 && histogram(one[0], one[1], binned(list, one[0]), (low, high) => { state.ranges.set(column, [low, high]); if (!$("filters").hidden) filters(); update(); }, column.name, list.length ? `median ${num(described(list).median)}` : ""); }).filter(Boolean));
  });
}

// ---- what score, train and mkmeta stats wrote ----------------------------------------------------------------------
function scoreSummaries() {
  const told = meta.summaries;
  if (!told) return;
  const apart = (a, b, direction) => a.interval && b.interval && (direction === "higher" ? a.interval[0] > b.interval[1] : a.interval[1] < b.interval[0]);
  const entry = (one, line) => {
    if (!one) return el("td", null, "–");
    const others = line.entries.filter(other => other && other !== one);
    const best = others.length && line.direction !== "none" && others.every(other => apart(one, other, line.direction));
    return el("td", {class: best && "best", title: `${many(one.count, "row")}${one.skipped ? `, ${one.skipped} skipped` : ""}${one.interval ? `; 95 % interval ${num(one.interval[0])} to ${num(one.interval[1])}` : ""}`}, num(one.value), one.interval && el("span", {class: "pm"}, ` [${num(one.interval[0], 3)}, ${num(one.interval[1], 3)}]`), el("span", {class: "pm"}, ` n ${one.count}`));
  };
  const chance = told.rows.some(line => line.entries.some(one => one && one.chance !== null && one.chance !== undefined));
  const warnings = [...new Set(told.rows.flatMap(line => line.entries.flatMap(one => one ? one.warnings : [])))];
  part("Scores", many(told.names.length, "summary").replace("summarys", "summaries") + " of 'avtools score', 95 % intervals" + (told.names.length > 1 ? "; green: better beyond both intervals" : ""), true,
    el("div", {class: "scroll"}, el("table", null, el("thead", null, el("tr", null, el("th", {scope: "col"}, ""), told.names.map(name => el("th", {scope: "col"}, text(name))), chance && el("th", {scope: "col"}, "chance"))),
      el("tbody", null, told.rows.map(line => el("tr", null, el("th", {scope: "row", title: line.metric}, text(line.column), arrow(line.direction)), line.entries.map(one => entry(one, line)), chance && el("td", null, num(line.entries.find(one => one && one.chance != null)?.chance))))))),
    told.unlike.length ? el("details", {class: "note warn"}, el("summary", null, `They are not alike (${told.unlike.length})`), told.unlike.map(line => el("p", null, text(line)))) : null,
    warnings.map(line => el("p", {class: "note warn"}, text(line))),
    told.canary.filter(one => one.told_apart === false).map(one => el("p", {class: "note warn"}, text(`${one.summary}: ${one.column} cannot tell ${one.control} from the true pairs`))));
}
function trainingRuns() {
  if (!meta.runs.length) return;
  const measures = new Map(); // base name -> series
  meta.runs.forEach((run, n) => {
    for (const [name, points] of Object.entries(run.curves)) {
      const valid = name.startsWith("valid_"), base = valid ? name.slice(6) : name;
      if (!measures.has(base)) measures.set(base, []);
      measures.get(base).push({name: `${run.name}${valid ? ", validation" : ""}`, color: COLOURS[n % COLOURS.length], dash: valid ? "5 3" : null, points});
    }
  });
  const minor = ["grad_norm", "lr", "samples_per_s", "wait", "memory_mb"], rank = name => name === "loss" ? -2 : minor.indexOf(name);
  const charts = [...measures].sort(([a], [b]) => rank(a) - rank(b));
  const validated = [...measures.values()].flat().some(one => one.dash);
  part("Training", meta.runs.map(run => run.name).join(", "), true,
    el("p", {class: "legend"}, meta.runs.map((run, n) => el("span", null, el("i", {style: `background:${COLOURS[n % COLOURS.length]}`}), text(run.name), run.facts.parameters ? `, ${num(run.facts.parameters)} parameters` : "", run.best ? `, best ${run.best.metric} ${num(run.best.value)} at step ${run.best.step}` : "")), validated && el("span", null, el("i", {class: "dash"}), "validation")),
    el("div", {class: "charts"}, charts.map(([name, series]) => curves(name, series))));
}
function statistics() {
  const told = meta.stats;
  if (!told) return;
  const shares = Object.entries(told.shares).filter(([, list]) => list.length > 1);
  const there = Object.entries(told.numbers).filter(([, one]) => one.count && one.histogram.counts.length);
  const described = there.filter(([name, one]) => one.min < one.max && !shares.some(([other]) => other === name));
  const always = there.filter(([, one]) => one.min === one.max).map(([name, one]) => `${name} ${num(one.min)}`);
  const missing = Object.entries(told.columns).filter(([, one]) => one.missing).map(([name, one]) => `${name} ${one.missing}`);
  const repeated = Object.entries(told.columns).filter(([, one]) => one.repeated).map(([name, one]) => `${name} ${one.repeated}`);
  part("Data set", `${many(told.rows.count, "row")}, ${num(told.rows.hours)} hours`, false,
    el("p", null, `${told.rows.with_picture.count} with a picture (${num(told.rows.with_picture.hours)} hours), ${told.rows.with_sound.count} with sound (${num(told.rows.with_sound.hours)} hours)` + (told.rows.duration_unknown ? `, ${told.rows.duration_unknown} of unknown duration` : "") + (told.rows.bad ? `; ${told.rows.bad} more are bad` : "")),
    always.length ? el("p", {class: "note"}, text(`always: ${always.join(", ")}`)) : null, missing.length ? el("p", {class: "note"}, text(`missing: ${missing.join(", ")}`)) : null, repeated.length ? el("p", {class: "note"}, text(`repeated: ${repeated.join(", ")}`)) : null,
    el("div", {class: "charts"}, described.map(([name, one]) => histogram(one.histogram.edges, one.histogram.counts, null, null, name, `median ${num(one.median)}`)),
      shares.map(([name, list]) => el("figure", null, el("figcaption", null, text(name), el("span", null, "share of rows")), el("div", {class: "share"}, list.slice(0, 12).map(one => [el("b", {title: one.value}, text(one.value)), el("i", {style: `width:${percent(one.share / list[0].share)}`}), el("span", null, `${(one.share * 100).toFixed(1)} %`)]))))));
}

// ---- begin -------------------------------------------------------------------------------------------------------
$("title").textContent = meta.title;
$("lead").textContent = many(rows.length, "row") + (meta.group ? ` in ${many(entries.length, "group")} by ${meta.group}` : "") + (meta.bad ? `, ${meta.bad} of them with an error` : "");
scoreSummaries();
trainingRuns();
statistics();
bar();
summaryOfRows();
put($("foot"), null, [el("p", null, [["space", "play or pause"], ["1–9", "play the n-th clip"], ["j", "next row"], ["k", "row before"], ["← →", "seek"], ["l", "loop"], ["/", "search"]].flatMap(([key, does], n) => [n ? " · " : "", el("kbd", null, key), ` ${does}`])),
  el("p", null, `In the spectrograms (50 Hz to 8 kHz, mel): blue lines are onsets that are heard, yellow triangles the table's events. Motion: mean optical flow.${meta.left.length ? " Columns that are not shown: " : ""}`, meta.left.length ? text(meta.left.join(", ")) : null), el("p", null, `Made by avtools ${meta.version}.`)]);
$("all").addEventListener("click", clear);
update();
window.addEventListener("load", soon);
document.documentElement.dataset.ready = "yes";
})();
