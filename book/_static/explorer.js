/* Learning curves that answer. Every state is worked out beforehand: see src/l3muscle/book/explorer.py. */
"use strict";

addEventListener("DOMContentLoaded", () => {
  const element = (name) => document.getElementById(`l3-${name}`);
  if (!element("explorer")) return;
  const states = JSON.parse(element("explorer-states").textContent);
  const counts = [...new Set(states.counts)];
  const tasks = Object.keys(states.tasks);
  const state = { measure: Object.keys(states.measures)[0], count: counts.length - 1, draw: 0, hidden: new Set() };
  Object.assign(state, { reading: 0, alpha: states.levels[0], size: Math.max(states.sizes.indexOf(10), 0) });

  const AREA = { left: 58, right: 14, top: 14, bottom: 44 };
  // In units of half a marker's side.
  const SHAPES = {
    s: "M-1-1H1V1H-1Z",
    D: "M0-1.3 1.3 0 0 1.3-1.3 0Z",
    "^": "M0-1.2 1.2 1H-1.2Z",
    v: "M0 1.2 1.2-1H-1.2Z",
    o: "M-1.1 0A1.1 1.1 0 1 0 1.1 0A1.1 1.1 0 1 0-1.1 0Z",
  };

  const measure = () => states.measures[state.measure];
  const draws = () => states.counts.flatMap((count, k) => (count === counts[state.count] ? [k] : []));
  const drawn = () => measure().draws[draws()[state.draw]];
  const shown = () => tasks.filter((task) => !state.hidden.has(task));
  const at = (task, n) => {
    const [mean, low, high] = drawn().means[`${task}|${n}`] ?? [];
    const [p, difference] = drawn().tests[state.reading]?.[`${task}|${n}`] ?? [];
    const isWorse = p != null && p < state.alpha && difference > 0 === (measure().worse === "above");
    return { mean, low, high, p, difference, isWorse };
  };
  const number = (value, digits = measure().digits) => value?.toFixed(digits).replace("-", "−") ?? "n/a";
  const probability = (p) => (p == null ? "n/a" : p < 0.001 ? "< 0.001" : p.toFixed(3));

  /* Round numbers that part a range into about five. */
  const ticks = (low, high) => {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough);
    const first = Math.ceil(low / step);
    return { step, at: Array.from({ length: Math.floor(high / step) - first + 1 }, (_, k) => (first + k) * step) };
  };

  const node = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  /* Axes hold every draw, so that they stand still while models are drawn anew. */
  const range = () => {
    const values = measure().draws.flatMap((each) => Object.values(each.means).map(([mean]) => mean));
    const all = [...values, measure().observers].filter((value) => value != null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const margin = 0.06 * (high - low || 1);
    return [low - margin, high + margin];
  };

  const draw = () => {
    const svg = element("curves");
    const [width, height] = [Math.max(svg.clientWidth, 300), Math.max(svg.clientHeight, 260)];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const [low, high] = range();
    const step = (width - AREA.left - AREA.right) / states.sizes.length;
    const x = (k) => AREA.left + (k + 0.5) * step;
    const y = (value) => height - AREA.bottom - ((value - low) / (high - low)) * (height - AREA.top - AREA.bottom);
    const parts = [];
    const scale = ticks(low, high);
    const digits = Math.max(0, -Math.floor(Math.log10(scale.step) + 1e-9));
    for (const value of scale.at) {
      parts.push(node("line", { class: "l3-grid", x1: AREA.left, x2: width - AREA.right, y1: y(value), y2: y(value) }));
      parts.push(node("text", { x: AREA.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, digits)));
    }
    states.sizes.forEach((n, k) => {
      const chosen = k === state.size ? "l3-chosen" : "";
      parts.push(node("text", { x: x(k), y: height - AREA.bottom + 18, "text-anchor": "middle", class: chosen }, n));
    });
    const middle = (height - AREA.bottom + AREA.top) / 2;
    const below = { x: (width + AREA.left - AREA.right) / 2, y: height - 6, "text-anchor": "middle" };
    parts.push(node("text", below, "training slices n"));
    const turned = `translate(14 ${middle}) rotate(-90)`;
    parts.push(node("text", { transform: turned, "text-anchor": "middle" }, measure().label));
    const column = { class: "l3-column", x: x(state.size) - step / 2, y: AREA.top, width: step };
    parts.unshift(node("rect", { ...column, height: height - AREA.top - AREA.bottom }));
    if (measure().observers != null) {
      const level = y(measure().observers);
      parts.push(node("line", { class: "l3-observers-line", x1: AREA.left, x2: width - AREA.right, y1: level, y2: level }));
      parts.push(node("text", { x: width - AREA.right, y: level - 5, "text-anchor": "end" }, "observers"));
    }
    for (const task of shown()) {
      const { colour, marker } = states.tasks[task];
      const aside = (tasks.indexOf(task) - (tasks.length - 1) / 2) * Math.min(step / 9, 7);
      const points = states.sizes.map((n, k) => ({ at: x(k) + aside, ...at(task, n) })).filter((point) => point.mean != null);
      const line = points.map((point) => `${point.at},${y(point.mean)}`).join(" ");
      parts.push(node("polyline", { points: line, fill: "none", style: `stroke:${colour}`, class: "l3-curve" }));
      for (const point of points) {
        const where = `translate(${point.at} ${y(point.mean)}) scale(4.5)`;
        const fill = point.isWorse ? "var(--l3-paper)" : colour;
        const style = `stroke:${colour};fill:${fill}`;
        parts.push(node("path", { d: SHAPES[marker], transform: where, style, class: "l3-marker" }));
      }
    }
    svg.replaceChildren(...parts);
    svg.setAttribute("aria-label", `${measure().label} against training slices, ${shown().length} source tasks`);
  };

  const report = () => {
    const n = states.sizes[state.size];
    const table = element("at-size");
    table.caption.textContent = `${measure().label} at n = ${n}`;
    const rows = shown().map((task) => {
      const { mean, low, high, p, isWorse } = at(task, n);
      const interval = low == null ? "n/a" : `${number(low)} to ${number(high)}`;
      const verdict = p == null ? "no test" : isWorse ? `significantly ${measure().worse}` : `not significantly ${measure().worse}`;
      const row = document.createElement("tr");
      for (const text of [states.tasks[task].label, number(mean), interval, probability(p), verdict]) {
        row.append(Object.assign(document.createElement(row.childElementCount ? "td" : "th"), { textContent: text }));
      }
      row.firstChild.scope = "row";
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
    const from = shown().map((task) => {
      const worse = states.sizes.map((size) => at(task, size)).map(({ p, isWorse }) => p == null || isWorse);
      const first = worse.lastIndexOf(true) + 1;
      const where = first === worse.length ? "at no size" : `from n = ${states.sizes[first]} on`;
      return `${states.tasks[task].label}: ${where}`;
    });
    element("explorer-about").textContent = states.readings.length
      ? `Not significantly ${measure().worse} the observers: ${from.join("; ")}.`
      : "Without observers there is no test.";
  };

  const refresh = () => {
    const several = draws().length > 1;
    element("count-out").textContent = state.count < counts.length - 1 ? counts[state.count] : states.all;
    element("size-out").textContent = states.sizes[state.size];
    element("draw").disabled = !several;
    element("draw").textContent = several ? `Draw other models (${state.draw + 1} of ${draws().length})` : "All models";
    draw();
    report();
  };
  const go = (change) => (Object.assign(state, change), refresh());

  const fill = (name, entries, read) => {
    element(name).replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    element(name).addEventListener("change", (event) => go({ [name]: read(event.target.value) }));
  };
  fill("measure", Object.entries(states.measures).map(([name, each]) => [name, each.label]), String);
  fill("reading", states.readings.map((text, k) => [k, text]), Number);
  fill("alpha", states.levels.map((level) => [level, level]), Number);
  element("count").max = counts.length - 1;
  element("size").max = states.sizes.length - 1;
  Object.assign(element("count"), { value: state.count });
  Object.assign(element("size"), { value: state.size });
  element("count").addEventListener("input", (event) => go({ count: Number(event.target.value), draw: 0 }));
  element("size").addEventListener("input", (event) => go({ size: Number(event.target.value) }));
  element("draw").addEventListener("click", () => go({ draw: (state.draw + 1) % draws().length }));
  for (const task of tasks) {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: task });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](task);
      refresh();
    });
    label.append(box, ` ${states.tasks[task].label}`);
    label.style.borderColor = states.tasks[task].colour;
    element("tasks").append(label);
  }
  element("explorer").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(draw).observe(element("curves"));
  refresh();
});
