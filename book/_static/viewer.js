/* The slice viewer. Its data are scripts (see src/l3muscle/book/viewer.py), which a page may load from a folder as well. */
"use strict";

const l3viewer = (() => {
  const BASE = new URL("viewer/", document.currentScript.src);
  const RANKS = ["best", "median", "worst"];
  const LINES = {
    observers: { colour: "#ffffff", width: 1, alpha: 0.75 },
    expert: { colour: "#ffb000", width: 2, alpha: 1 },
    prediction: { colour: "#56b4e9", width: 2, alpha: 1 },
  };
  const slices = new Map(); // number of a test image -> its data, as far as they have been loaded
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
  const configuration = () => index.configurations[`${state.task}|${state.n}`];
  const model = () => state.model ?? configuration()?.models[0];
  const prediction = (slice) => slice.predictions.get(state.task)?.[`${state.n}|${model()}`];

  /* Grey values of a PNG, one a pixel. */
  const pixels = async (png) => {
    const picture = new Image();
    picture.src = `data:image/png;base64,${png}`;
    await picture.decode();
    const pen = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    pen.drawImage(picture, 0, 0);
    const { data } = pen.getImageData(0, 0, picture.width, picture.height);
    return data.filter((_, i) => i % 4 === 0);
  };

  /* The sides of a mask's pixels that have no pixel of it beyond them, as a path in pixels. */
  const outline = async (png, columns) => {
    const mask = await pixels(png);
    const path = new Path2D();
    const side = (x, y, dx, dy) => (path.moveTo(x, y), path.lineTo(x + dx, y + dy));
    mask.forEach((inside, i) => {
      if (!inside) return;
      const [x, y] = [i % columns, Math.floor(i / columns)];
      if (x === 0 || !mask[i - 1]) side(x, y, 0, 1);
      if (x === columns - 1 || !mask[i + 1]) side(x + 1, y, 0, 1);
      if (!mask[i - columns]) side(x, y, 1, 0);
      if (!mask[i + columns]) side(x, y + 1, 1, 0);
    });
    return path;
  };

  const prepare = async (slice, [columns, rows]) => {
    slice.grey ??= await pixels(slice.png);
    slice.sheet ??= new OffscreenCanvas(columns, rows);
    slice.lines ??= {
      expert: [await outline(slice.expert.mask, columns)],
      observers: await Promise.all(slice.observers.map((png) => outline(png, columns))),
    };
    const predicted = prediction(slice);
    if (predicted) predicted.line ??= await outline(predicted.mask, columns);
  };

  const draw = () => {
    if (!shown) return;
    const { slice, about } = shown;
    const canvas = element("canvas");
    const [columns, rows] = about.size;
    const stretch = about.spacing[1] / about.spacing[0];
    const ratio = devicePixelRatio || 1;
    canvas.style.aspectRatio = `${columns} / ${rows * stretch}`;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    const scale = canvas.width / columns;
    canvas.height = Math.round(rows * stretch * scale);

    const [width, level] = [Number(element("window").value), Number(element("level").value)];
    const [lowest, step] = index.grey;
    const image = new ImageData(columns, rows);
    slice.grey.forEach((grey, i) => {
      image.data.fill(((lowest + step * grey - level) / width + 0.5) * 255, 4 * i, 4 * i + 3);
      image.data[4 * i + 3] = 255;
    });
    slice.sheet.getContext("2d").putImageData(image, 0, 0);

    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(slice.sheet, 0, 0, canvas.width, canvas.height);
    const predicted = prediction(slice);
    const lines = { ...slice.lines, prediction: predicted ? [predicted.line] : [] };
    const enlarge = new DOMMatrix([scale, 0, 0, scale * stretch, 0, 0]);
    for (const [name, look] of Object.entries(LINES)) {
      if (!element(`show-${name}`).checked) continue;
      pen.strokeStyle = look.colour;
      pen.globalAlpha = look.alpha;
      pen.lineWidth = look.width * ratio;
      for (const line of lines[name]) {
        const enlarged = new Path2D();
        enlarged.addPath(line, enlarge);
        pen.stroke(enlarged);
      }
    }
    pen.globalAlpha = 1;
  };

  const number = (value, digits) => value?.toFixed(digits) ?? "n/a";
  const called = (name) => {
    const [fold, subset, repeat] = name.split(".");
    return `fold ${fold}, subset ${subset}, repeat ${repeat}`;
  };

  const report = () => {
    const { slice, about } = shown;
    const predicted = prediction(slice);
    for (const cell of document.querySelectorAll("#l3-values [data-measure]")) {
      const { measure, digits } = cell.dataset;
      cell.textContent = number(predicted?.[measure], digits);
      const expert = element(`expert-${measure}`);
      if (expert) expert.textContent = number(slice.expert[measure], digits);
    }
    const which = `${index.tasks[state.task]}, n = ${state.n}`;
    const what = predicted ? `${which}; model of ${called(model())}` : `${which}: not in this run`;
    const own = configuration();
    const ranks = RANKS.filter((name) => own?.[name][0] === about.id && own[name][1] === model());
    for (const name of RANKS) element(name).setAttribute("aria-pressed", String(ranks.includes(name)));
    element("about").textContent = `${about.id}: ${what}${ranks.map((name) => `, ${name} of its configuration`).join("")}.`;
    element("canvas").setAttribute("aria-label", `CT slice of test image ${about.id}; ${what}`);
  };

  const hash = () => {
    const parts = new URLSearchParams({ image: index.images[state.image].id, task: state.task, n: state.n });
    if (state.model) parts.set("model", state.model);
    return `#${parts}`;
  };

  const refresh = async () => {
    const models = configuration()?.models ?? [];
    element("model").replaceChildren(...models.map((name) => new Option(called(name), name)));
    const chosen = { image: state.image, task: state.task, n: state.n, model: model() };
    for (const [name, value] of Object.entries(chosen)) element(name).value = value;
    for (const name of RANKS) element(name).disabled = !configuration();
    element("link").href = hash();
    const slice = slices.get(state.image);
    if (!slice) return load(`slice-${state.image}.js`);
    if (configuration() && !slice.predictions.has(state.task)) return load(`slice-${state.image}-${state.task}.js`);
    const asked = hash();
    await prepare(slice, index.images[state.image].size);
    if (asked !== hash()) return; // another view has been asked for meanwhile
    shown = { slice, about: index.images[state.image] };
    report();
    draw();
    element("viewer").dataset.ready = asked;
  };

  const go = (change) => {
    Object.assign(state, change);
    if (!configuration()?.models.includes(state.model)) state.model = null;
    history.replaceState(null, "", hash());
    refresh();
  };

  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const known = (value, list, first) => (list.includes(value) ? value : list.includes(first) ? first : list.at(-1));
    state.image = Math.max(index.images.findIndex((each) => each.id === asked.get("image")), 0);
    state.task = known(asked.get("task"), Object.keys(index.tasks), index.first.task);
    state.n = known(Number(asked.get("n")), index.sizes, index.first.n);
    state.model = configuration()?.models.includes(asked.get("model")) ? asked.get("model") : null;
  };

  const look = (width, level) => {
    for (const [name, value] of Object.entries({ window: width, level })) {
      element(name).value = value;
      element(`${name}-out`).textContent = `${element(name).value} HU`;
    }
    draw();
  };

  const wire = () => {
    const around = (by, at, length) => (at + by + length) % length;
    const image = (by) => go({ image: around(by, state.image, index.images.length) });
    const size = (by) => go({ n: index.sizes[around(by, index.sizes.indexOf(state.n), index.sizes.length)] });
    const options = { image: index.images.map((each, k) => [k, each.id]), n: index.sizes.map((n) => [n, n]) };
    for (const [name, entries] of Object.entries({ ...options, task: Object.entries(index.tasks), model: [] })) {
      element(name).replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
      const read = name === "task" || name === "model" ? String : Number;
      element(name).addEventListener("change", (event) => go({ [name]: read(event.target.value) }));
    }
    element("previous").addEventListener("click", () => image(-1));
    element("next").addEventListener("click", () => image(1));
    for (const rank of RANKS) {
      element(rank).addEventListener("click", () => {
        const [id, name] = configuration()[rank];
        go({ image: index.images.findIndex((each) => each.id === id), model: name });
      });
    }
    for (const name of Object.keys(LINES)) element(`show-${name}`).addEventListener("change", draw);
    const now = () => look(element("window").value, element("level").value);
    for (const name of ["window", "level"]) element(name).addEventListener("input", now);
    element("reset").addEventListener("click", () => look(index.window, index.level));
    element("viewer").addEventListener("submit", (event) => event.preventDefault());
    const keys = { ArrowLeft: [image, -1], ArrowRight: [image, 1], ArrowUp: [size, -1], ArrowDown: [size, 1] };
    element("canvas").addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      const [move, by] = keys[event.key];
      move(by);
    });
    new ResizeObserver(draw).observe(element("canvas"));
    addEventListener("hashchange", () => (read(), refresh()));
  };

  document.addEventListener("DOMContentLoaded", () => element("viewer") && load("index.js"));

  return {
    index: (content) => {
      index = content;
      read();
      wire();
      look(index.window, index.level);
      refresh();
    },
    slice: (number, content) => {
      slices.set(number, { ...content, predictions: new Map() });
      refresh();
    },
    predictions: (number, task, content) => {
      slices.get(number).predictions.set(task, content);
      refresh();
    },
  };
})();
