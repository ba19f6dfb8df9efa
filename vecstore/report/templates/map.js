"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const n = data.x.length, COLOURS = 8, SHAPES = ["circle", "square", "triangle"];
  const at = id => document.getElementById(id);
  const stage = at("stage"), canvas = at("map"), ring = at("ring"), tip = at("tip"), legend = at("legend");
  const pen = canvas.getContext("2d");
  const view = { k: 1, x: 0, y: 0 };
  const state = { field: -1, only: new Set(), chosen: -1, pinned: false, pictures: false };
  let width = 0, height = 0, palette = {}, queued = false, looks = [], order = [], tiles = [];

  // What a point looks like

  const readPalette = () => {
    const style = getComputedStyle(document.documentElement);
    const get = name => style.getPropertyValue(name).trim();
    palette = { card: get("--card"), ink: get("--ink"), none: get("--none"), ramp: ["--r0", "--r1", "--r2"].map(get) };
    palette.class = Array.from({ length: COLOURS }, (_, i) => get(`--c${i}`));
  };
  const channels = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  const onRamp = share => {
    const place = Math.min(Math.max(share, 0), 1) * 2, first = Math.min(Math.floor(place), 1);
    const [a, b] = [channels(palette.ramp[first]), channels(palette.ramp[first + 1])];
    return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * (place - first))).join(" ")})`;
  };
  const MOST = COLOURS * SHAPES.length;
  const lookOfLevel = level => level < 0 ? { key: -1, colour: palette.none, shape: "none" }
    : level < MOST ? { key: level, colour: palette.class[level % COLOURS], shape: SHAPES[Math.floor(level / COLOURS)] }
    : { key: MOST, colour: palette.none, shape: "circle" };
  const range = field => {
    let low = Infinity, high = -Infinity;
    for (const value of field.values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    return [low, high];
  };
  const dress = () => {
    const field = data.fields[state.field];
    if (!field) looks = Array.from({ length: n }, () => ({ key: 0, colour: palette.class[0], shape: "circle" }));
    else if (field.levels) {
      const of = new Map();
      looks = field.codes.map(code => of.get(code) ?? (of.set(code, lookOfLevel(code)), of.get(code)));
    } else {
      const [low, high] = range(field), none = lookOfLevel(-1);
      looks = field.values.map(v => v === null ? none
        : { key: 0, colour: onRamp(high > low ? (v - low) / (high - low) : 0.5), shape: "circle" });
    }
    // What is grey lies below.
    const grey = looks.map(one => one.colour === palette.none);
    order = [...looks.keys()].filter(i => grey[i]).concat([...looks.keys()].filter(i => !grey[i]));
  };

  // Where a point is

  const PAD = 28;
  const spanX = data.x.reduce((a, b) => Math.max(a, b), 1), spanY = data.y.reduce((a, b) => Math.max(a, b), 1);
  const unit = () => Math.max(Math.min((width - 2 * PAD) / spanX, (height - 2 * PAD) / spanY), 1e-6);
  const placeOf = i => {
    const u = unit();
    return [
      (width / 2 + (data.x[i] - spanX / 2) * u) * view.k + view.x,
      (height / 2 + (data.y[i] - spanY / 2) * u) * view.k + view.y,
    ];
  };
  const shown = i => !state.only.size || state.only.has(looks[i].key);
  const radius = () => Math.min(Math.max(9 - Math.log10(n + 1) * 1.5, 3), 7) * Math.min(1 + (view.k - 1) * 0.06, 1.8) * (width < 600 ? 0.85 : 1);
  const nearest = (x, y, reach) => {
    const tile = state.pictures && tiles.find(([, left, top, w, h]) => x >= left && x <= left + w && y >= top && y <= top + h);
    if (tile) return tile[0];
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      if (!shown(i)) continue;
      const [px, py] = placeOf(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  };

  // Drawing

  const loaded = new Map();
  const pictureOf = i => {
    const place = data.picture[i];
    if (place < 0) return null;
    if (!loaded.has(place)) {
      const image = new Image();
      image.onload = draw;
      image.src = data.pictures[place];
      loaded.set(place, image);
    }
    return loaded.get(place);
  };
  const trace = (shape, x, y, r) => {
    pen.beginPath();
    if (shape === "square") pen.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76);
    else if (shape === "triangle") { pen.moveTo(x, y - r * 1.2); pen.lineTo(x + r * 1.12, y + r * 0.8); pen.lineTo(x - r * 1.12, y + r * 0.8); pen.closePath(); }
    else pen.arc(x, y, r, 0, 2 * Math.PI);
  };
  const paintPoints = () => {
    const r = radius();
    for (const front of state.only.size ? [false, true] : [true]) for (const i of order) {
      if (shown(i) !== front) continue;
      const [x, y] = placeOf(i);
      if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
      const { colour, shape } = looks[i];
      trace(shape, x, y, front ? r : r * 0.7);
      pen.globalAlpha = front && !state.pictures ? 0.88 : 0.14;
      if (shape === "none") { pen.strokeStyle = colour; pen.lineWidth = 1.5; pen.stroke(); continue; }
      pen.fillStyle = colour;
      pen.fill();
      if (front && !state.pictures) { pen.globalAlpha = 0.9; pen.strokeStyle = palette.card; pen.lineWidth = 0.8; pen.stroke(); }
    }
    pen.globalAlpha = 1;
  };
  const paintPictures = () => {
    const side = width < 600 ? 40 : 56, taken = new Set();
    tiles = [];
    for (let i = 0; i < n; i++) {
      if (!shown(i)) continue;
      const [x, y] = placeOf(i);
      if (x < 0 || y < 0 || x > width || y > height) continue;
      const cell = `${Math.floor(x / side)} ${Math.floor(y / side)}`;
      if (taken.has(cell)) continue;
      const image = pictureOf(i);
      if (!image) continue;
      taken.add(cell);
      if (!image.complete || !image.naturalWidth) continue;
      const scale = (side - 8) / Math.max(image.naturalWidth, image.naturalHeight);
      const w = image.naturalWidth * scale, h = image.naturalHeight * scale;
      const left = (Math.floor(x / side) + 0.5) * side - w / 2, top = (Math.floor(y / side) + 0.5) * side - h / 2;
      tiles.push([i, left, top, w, h]);
      pen.fillStyle = looks[i].colour;
      pen.fillRect(left - 2.5, top - 2.5, w + 5, h + 5);
      pen.drawImage(image, left, top, w, h);
    }
  };
  const paint = () => {
    queued = false;
    const dense = Math.max(devicePixelRatio || 1, 1);
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
    }
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    paintPoints();
    if (state.pictures) paintPictures();
    follow();
  };
  function draw() {
    if (!queued) { queued = true; requestAnimationFrame(paint); }
  }

  // The picture of a point

  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const valueOf = (field, i) => field.levels ? (field.codes[i] < 0 ? null : field.levels[field.codes[i]]) : field.values[i];
  // A long name is divided between its words, though no space is there: as `breakable` in page.py.
  const JOINTS = /(?<=[a-z0-9])(?=[A-Z])|(?<=[a-zA-Z0-9][/\\_!-])(?=\w)/;
  const parted = (text, tag) => {
    const made = make(tag);
    text.split(JOINTS).forEach((part, i) => made.append(...(i ? [make("wbr"), part] : [part])));
    return made;
  };
  const markOf = look => {
    const made = make("i", undefined, `mark ${look.shape}`);
    made.style.setProperty("--mark", look.colour);
    return made;
  };
  const choose = (i, pinned = false) => {
    if (i === state.chosen && pinned === state.pinned) return;
    Object.assign(state, { chosen: i, pinned: pinned && i >= 0 });
    ring.hidden = tip.hidden = i < 0;
    tip.classList.toggle("pinned", state.pinned);
    at("said").textContent = "";
    if (i >= 0) fill(i);
    draw();
  };
  const fill = i => {
    const well = make("div", undefined, "well"), text = make("div", undefined, "text"), pairs = make("dl", undefined, "pairs");
    const picture = data.picture[i];
    if (picture >= 0) {
      const image = make("img");
      image.alt = `Thumbnail of ${data.name[i]}`;
      image.src = data.pictures[picture];
      well.append(image);
    } else well.append(make("span", "no thumbnail"));
    const whole = data.name[i], cut = Math.max(whole.lastIndexOf("/"), whole.lastIndexOf("!")) + 1;
    const head = make("div"), title = make("h2"), where = make("p", undefined, "soft small");
    title.append(parted(whole.slice(cut), "bdi"));
    const folder = whole.slice(0, cut).replace(/[/!]+$/, "");
    where.append(parted(data.source.levels[data.source.codes[i]] + (folder ? ` · ${folder}` : ""), "bdi"));
    head.append(title, where);
    const told = [];
    data.fields.forEach((field, place) => {
      const value = valueOf(field, i);
      if (value === null || field.what === "source" || (field.aside && place !== state.field)) return;
      const name = make("dt"), shownValue = make("dd");
      if (place === state.field) name.append(markOf(looks[i]));
      name.append(parted(field.name, "span"));
      shownValue.append(parted(String(value), "bdi"));
      pairs.append(name, shownValue);
      if (told.length < 4) told.push(`${field.name} ${value}`);
    });
    pairs.append(make("dt", "item"), make("dd", String(data.id[i])));
    text.append(head, pairs);
    tip.replaceChildren(well, text);
    if (state.pinned) {
      const close = make("button", "×");
      close.type = "button";
      close.setAttribute("aria-label", "Close");
      close.onclick = () => { choose(-1); canvas.focus({ preventScroll: true }); };
      tip.append(close);
    }
    if (state.pinned || document.activeElement === canvas) at("said").textContent = [whole, ...told].join(", ");
  };
  const follow = () => {
    if (state.chosen < 0) return;
    const [x, y] = placeOf(state.chosen);
    ring.style.transform = `translate(${x}px, ${y}px)`;
    ring.hidden = x < 0 || y < 0 || x > width || y > height;
    const w = tip.offsetWidth, h = tip.offsetHeight, gap = 18;
    const left = x + gap + w < width ? x + gap : x - gap - w > 0 ? x - gap - w : Math.max(8, Math.min(x - w / 2, width - w - 8));
    const beside = left > x || left + w < x;
    const top = beside ? y - h / 2 : y + gap + h < height ? y + gap : y - gap - h;
    tip.style.left = `${Math.max(8, Math.min(left, width - w - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(top, height - h - 8))}px`;
  };

  // The legend

  const spaced = count => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const entry = (look, name, count) => {
    const item = make("li"), button = make("button"), text = make("span");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    text.append(make("bdi", name));
    button.append(markOf(look), text, make("span", spaced(count)));
    button.onclick = () => {
      if (!state.only.delete(look.key)) state.only.add(look.key);
      legend.classList.toggle("some", state.only.size > 0);
      button.setAttribute("aria-pressed", String(state.only.has(look.key)));
      choose(-1);
      draw();
    };
    item.append(button);
    return item;
  };
  const list = () => {
    const field = data.fields[state.field];
    legend.replaceChildren();
    legend.classList.remove("some");
    if (!field) return;
    const heading = make("h2"), entries = make("ul");
    heading.append(make("bdi", field.name));
    legend.append(heading);
    if (field.levels) {
      const counts = new Map();
      for (const code of field.codes) counts.set(code, (counts.get(code) || 0) + 1);
      field.levels.slice(0, MOST).forEach((name, code) => entries.append(entry(lookOfLevel(code), name, counts.get(code))));
      const rest = field.levels.length - MOST;
      let others = 0;
      for (const [code, count] of counts) if (code >= MOST) others += count;
      if (rest > 0) entries.append(entry(lookOfLevel(MOST), `${spaced(rest)} others`, others));
      if (counts.has(-1)) entries.append(entry(lookOfLevel(-1), "not known", counts.get(-1)));
    } else {
      const [low, high] = range(field), bar = make("div", undefined, "ramp"), ends = make("p", undefined, "ends soft small");
      bar.style.background = `linear-gradient(to right, ${palette.ramp.join(", ")})`;
      ends.append(make("span", String(low)), make("span", String(high)));
      const absent = field.values.filter(v => v === null).length;
      legend.append(bar, ends);
      if (absent) {
        entries.append(entry({ key: 0, colour: palette.ramp[1], shape: "circle" }, "known", n - absent));
        entries.append(entry(lookOfLevel(-1), "not known", absent));
      }
    }
    legend.append(entries);
  };
  const recolour = () => { readPalette(); dress(); list(); state.only.clear(); if (state.chosen >= 0) fill(state.chosen); draw(); };

  // Looking closer

  const zoom = (factor, x = width / 2, y = height / 2) => {
    const k = Math.min(Math.max(view.k * factor, 1), 60), by = k / view.k;
    Object.assign(view, { k, x: x - (x - view.x) * by, y: y - (y - view.y) * by });
    keep();
  };
  const keep = () => {
    view.x = Math.min(Math.max(view.x, width * (1 - view.k)), 0);
    view.y = Math.min(Math.max(view.y, height * (1 - view.k)), 0);
    canvas.style.touchAction = view.k > 1 ? "none" : "pan-y";
    draw();
  };
  const inside = event => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("wheel", event => {
    if (event.deltaY > 0 && view.k === 1) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...inside(event));
  }, { passive: false });
  const held = new Map();
  let moved = false, apart = 0;
  const gap = () => { const [a, b] = [...held.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, inside(event));
    if (held.size === 1) moved = false;
    if (held.size === 2) { apart = gap(); moved = true; }
  });
  canvas.addEventListener("pointermove", event => {
    const [x, y] = inside(event), before = held.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch" && !state.pinned) choose(nearest(x, y, radius() + 10));
      return;
    }
    if (held.size === 1) {
      if (!moved && Math.hypot(x - before[0], y - before[1]) < 5) return;
      moved = true;
      view.x += x - before[0];
      view.y += y - before[1];
      held.set(event.pointerId, [x, y]);
      keep();
      return;
    }
    held.set(event.pointerId, [x, y]);
    const [a, b] = [...held.values()], now = gap();
    if (apart > 0) zoom(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    apart = now;
  });
  const release = event => {
    const ours = held.delete(event.pointerId);
    if (event.type !== "pointerup" || !ours || held.size || moved) return;
    const found = nearest(...inside(event), radius() + (event.pointerType === "touch" ? 22 : 10));
    choose(found, !(state.pinned && found === state.chosen));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!state.pinned && !held.size) choose(-1); });

  // By keyboard

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const walk = ([dx, dy]) => {
    if (state.chosen < 0) return nearest(width / 2, height / 2, Infinity);
    const [x, y] = placeOf(state.chosen);
    let best = state.chosen, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (i === state.chosen || !shown(i)) continue;
      const [px, py] = placeOf(i), along = (px - x) * dx + (py - y) * dy, aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (along > 0.5 && aside <= along * 2 && along + 2 * aside < least) { least = along + 2 * aside; best = i; }
    }
    return best;
  };
  const look = i => {
    const [x, y] = placeOf(i);
    if (x < 0 || y < 0 || x > width || y > height) { view.x += width / 2 - x; view.y += height / 2 - y; keep(); }
  };
  canvas.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (STEPS[event.key]) { const to = walk(STEPS[event.key]); if (to >= 0) { look(to); choose(to, state.pinned); } }
    else if (event.key === "Enter" || event.key === " ") choose(state.chosen, !state.pinned);
    else if (event.key === "Escape") choose(-1);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape" && state.chosen >= 0) choose(-1); });
  at("in").onclick = () => zoom(1.6);
  at("out").onclick = () => zoom(1 / 1.6);
  at("whole").onclick = () => zoom(0);
  at("pictures").onchange = event => { state.pictures = event.target.checked; draw(); };
  at("by").onchange = event => { state.field = Number(event.target.value); recolour(); };

  // First sight

  if (at("by").options.length) state.field = Number(at("by").value);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new ResizeObserver(() => {
    const box = stage.getBoundingClientRect();
    if (width) { view.x *= box.width / width; view.y *= box.height / height; }
    [width, height] = [box.width, box.height];
    keep();
  }).observe(stage);
  recolour();
})();
