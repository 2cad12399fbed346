/* The slice viewer. Data come as scripts (see src/l3muscle/book/viewer.py), which a page may load from a folder as well. */
"use strict";

const l3viewer = (() => {
  const BASE = new URL("viewer/", document.currentScript.src);
  const RANKS = ["best", "median", "worst"];
  const LINES = {
    observers: { colour: "#ffffff", width: 1, dash: [], alpha: 0.75 },
    expert: { colour: "#ffb000", width: 2, dash: [], alpha: 1 },
    prediction: { colour: "#56b4e9", width: 2, dash: [7, 4], alpha: 1 },
  };
  const slices = new Map();
  const state = { image: 0, task: "", n: 0, model: null };
  let index = null;
  let shown = null;

  const element = (name) => document.getElementById(`l3-${name}`);
  const load = (name) => {
    const script = document.createElement("script");
    script.src = new URL(name, BASE);
    script.onerror = () => (element("about").textContent = "This image could not be loaded.");
    document.head.append(script);
  };
  const cellKey = () => `${state.task}|${state.n}`;
  const cell = () => index.cells[cellKey()];
  const model = () => state.model ?? cell()?.models[0];
  const prediction = (slice) => slice.predictions.get(state.task)?.[`${state.n}|${model()}`];

  /* Polygons as `l3muscle.book.viewer.pack_outline` packs them: a start, and a character a step. */
  const path = (polygons) => {
    const line = new Path2D();
    for (const [startX, startY, steps] of polygons) {
      let [x, y] = [startX, startY];
      // Pixel centres lie on even numbers of half pixels.
      line.moveTo(x / 2 + 0.5, y / 2 + 0.5);
      for (const character of steps) {
        const code = index.alphabet.indexOf(character);
        const [dx, dy] = index.units[Math.floor(code / index.longest)];
        const length = (code % index.longest) + 1;
        x += dx * length;
        y += dy * length;
        line.lineTo(x / 2 + 0.5, y / 2 + 0.5);
      }
      line.closePath();
    }
    return line;
  };

  const decode = async (slice) => {
    const picture = new Image();
    picture.src = `data:image/png;base64,${slice.png}`;
    await picture.decode();
    const sheet = new OffscreenCanvas(picture.width, picture.height);
    const pen = sheet.getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture, 0, 0);
    slice.pixels = pen.getImageData(0, 0, picture.width, picture.height);
    slice.sheet = sheet;
    slice.window = null;
  };

  /* Grey values through window and level, as far as they have changed. */
  const develop = (slice, width, level) => {
    const key = `${width} ${level}`;
    if (slice.window === key) return;
    slice.window = key;
    const [lowest, step] = index.grey;
    const table = new Uint8ClampedArray(256);
    for (let g = 0; g < 256; g += 1) table[g] = ((lowest + step * g - level) / width + 0.5) * 255;
    slice.original ??= Uint8ClampedArray.from(slice.pixels.data.filter((_, i) => i % 4 === 0));
    const { data } = slice.pixels;
    slice.original.forEach((grey, i) => {
      data[4 * i] = data[4 * i + 1] = data[4 * i + 2] = table[grey];
    });
    slice.sheet.getContext("2d").putImageData(slice.pixels, 0, 0);
  };

  const draw = () => {
    if (!shown) return;
    const { slice, about } = shown;
    const canvas = element("canvas");
    const [columns, rows] = about.size;
    const stretch = about.spacing[1] / about.spacing[0];
    const ratio = devicePixelRatio || 1;
    canvas.style.aspectRatio = `${columns} / ${rows * stretch}`;
    const width = Math.round(canvas.clientWidth * ratio);
    const scale = width / columns;
    canvas.width = width;
    canvas.height = Math.round(rows * stretch * scale);
    develop(slice, Number(element("window").value), Number(element("level").value));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(slice.sheet, 0, 0, canvas.width, canvas.height);
    const predicted = prediction(slice);
    const outlines = { observers: slice.observers, expert: [slice.expert.outline] };
    if (predicted) outlines.prediction = [predicted.outline];
    const place = new DOMMatrix([scale, 0, 0, scale * stretch, 0, 0]);
    for (const [name, look] of Object.entries(LINES)) {
      if (!outlines[name] || !element(`show-${name}`).checked) continue;
      pen.strokeStyle = look.colour;
      pen.globalAlpha = look.alpha;
      pen.lineWidth = look.width * ratio;
      pen.setLineDash(look.dash.map((length) => length * ratio));
      for (const polygons of outlines[name]) {
        const line = new Path2D();
        line.addPath(path(polygons), place);
        pen.stroke(line);
      }
    }
    pen.globalAlpha = 1;
    pen.setLineDash([]);
  };

  const number = (value, digits) => (value === null || value === undefined ? "n/a" : value.toFixed(digits));

  const called = (name) => {
    const [fold, subset, repeat] = name.split(".").map((part) => Number(part) + 1);
    return `fold ${fold}, training set ${subset}, repeat ${repeat}`;
  };

  const report = () => {
    const { slice, about } = shown;
    const predicted = prediction(slice);
    element("dice").textContent = number(predicted?.dice, 3);
    element("rms").textContent = number(predicted?.rms, 2);
    element("sma").textContent = number(predicted?.sma, 1);
    element("smd").textContent = number(predicted?.smd, 1);
    element("sma-expert").textContent = number(slice.expert.sma, 1);
    element("smd-expert").textContent = number(slice.expert.smd, 1);
    const what = predicted
      ? `${index.tasks[state.task]}, n = ${state.n}; model of ${called(model())}`
      : `${index.tasks[state.task]}, n = ${state.n}: not run in this profile`;
    const files = index.files[`${cellKey()}|${model()}`];
    element("source").textContent = predicted
      ? `Measures and mask of this prediction: runs/${index.profile}/experiments/${files}`
      : "";
    const rank = RANKS.filter((name) => cell()?.[name][0] === about.id && cell()[name][1] === model());
    const place = rank.length ? ` (${rank.join(" and ")} of its cell)` : "";
    element("about").textContent = `${about.id}: ${what}${place}.`;
    element("canvas").setAttribute("aria-label", `CT slice of test image ${about.id}; ${what}`);
    for (const name of RANKS) element(name).setAttribute("aria-pressed", String(rank.includes(name)));
  };

  const hash = () => {
    const parts = new URLSearchParams({ image: index.images[state.image].id, task: state.task, n: state.n });
    if (state.model && state.model !== cell()?.models[0]) parts.set("model", state.model);
    return `#${parts}`;
  };

  const refresh = async () => {
    element("image").value = state.image;
    element("task").value = state.task;
    element("n").value = state.n;
    const models = cell()?.models ?? [];
    const select = element("model");
    if ([...select.options].map((option) => option.value).join() !== models.join()) {
      select.replaceChildren(...models.map((name) => new Option(called(name), name)));
    }
    select.disabled = !models.length;
    if (models.length) select.value = model();
    for (const name of RANKS) element(name).disabled = !cell();
    element("link").href = hash();
    const slice = slices.get(state.image);
    if (!slice) {
      load(`slice-${state.image}.js`);
      return;
    }
    if (cell() && !slice.predictions.has(state.task)) {
      load(`slice-${state.image}-${state.task}.js`);
      return;
    }
    const asked = state.image;
    if (!slice.sheet) await decode(slice);
    if (asked !== state.image) return;
    shown = { slice, about: index.images[state.image] };
    report();
    draw();
    element("viewer").dataset.ready = hash();
  };

  const go = (change) => {
    Object.assign(state, change);
    if (!cell()?.models.includes(state.model)) state.model = null;
    history.replaceState(null, "", hash());
    refresh();
  };

  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const image = index.images.findIndex((each) => each.id === asked.get("image"));
    const tasks = Object.keys(index.tasks);
    const n = Number(asked.get("n"));
    state.image = Math.max(image, 0);
    state.task = tasks.includes(asked.get("task")) ? asked.get("task") : tasks.at(-1);
    state.n = index.sizes.includes(n) ? n : index.sizes.at(-1);
    state.model = asked.get("model");
    if (!cell()?.models.includes(state.model)) state.model = null;
  };

  const steps = (by, list, now) => (list.indexOf(now) + by + list.length) % list.length;
  const otherImage = (by) => go({ image: (state.image + by + index.images.length) % index.images.length });
  const otherSize = (by) => go({ n: index.sizes[steps(by, index.sizes, state.n)] });
  const extreme = (rank) => {
    const [id, name] = cell()[rank];
    go({ image: index.images.findIndex((each) => each.id === id), model: name });
  };

  const look = (width, level) => {
    element("window").value = width;
    element("level").value = level;
    element("window-out").textContent = `${element("window").value} HU`;
    element("level-out").textContent = `${element("level").value} HU`;
    draw();
  };
  const lookNow = () => look(element("window").value, element("level").value);

  const drag = (canvas) => {
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY, Number(element("window").value), Number(element("level").value)];
    });
    addEventListener("pointermove", (event) => {
      // A finger scrolls the page.
      if (!from || event.pointerType === "touch") return;
      look(from[2] + event.clientX - from[0], from[3] - (event.clientY - from[1]));
    });
    addEventListener("pointerup", () => (from = null));
    addEventListener("pointercancel", () => (from = null));
  };

  const fill = (select, entries) => {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    select.disabled = false;
  };

  const wire = () => {
    fill(element("image"), index.images.map((each, place) => [place, each.id]));
    fill(element("task"), Object.entries(index.tasks));
    fill(element("n"), index.sizes.map((n) => [n, n]));
    element("image").addEventListener("change", (event) => go({ image: Number(event.target.value) }));
    element("task").addEventListener("change", (event) => go({ task: event.target.value }));
    element("n").addEventListener("change", (event) => go({ n: Number(event.target.value) }));
    element("model").addEventListener("change", (event) => go({ model: event.target.value }));
    element("previous").addEventListener("click", () => otherImage(-1));
    element("next").addEventListener("click", () => otherImage(1));
    for (const rank of RANKS) element(rank).addEventListener("click", () => extreme(rank));
    for (const name of Object.keys(LINES)) element(`show-${name}`).addEventListener("change", draw);
    for (const name of ["window", "level"]) element(name).addEventListener("input", lookNow);
    element("reset").addEventListener("click", () => look(index.window, index.level));
    element("viewer").addEventListener("submit", (event) => event.preventDefault());
    const keys = {
      ArrowLeft: () => otherImage(-1),
      ArrowRight: () => otherImage(1),
      ArrowUp: () => otherSize(1),
      ArrowDown: () => otherSize(-1),
    };
    element("canvas").addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    drag(element("canvas"));
    new ResizeObserver(draw).observe(element("canvas"));
    addEventListener("hashchange", () => {
      read();
      refresh();
    });
  };

  document.addEventListener("DOMContentLoaded", () => element("viewer") && load("index.js"));

  return {
    index(content) {
      index = content;
      read();
      wire();
      look(index.window, index.level);
      refresh();
    },
    slice(number, content) {
      slices.set(number, { ...content, predictions: new Map() });
      if (number === state.image) refresh();
    },
    predictions(number, task, content) {
      slices.get(number).predictions.set(task, content);
      if (number === state.image) refresh();
    },
  };
})();
