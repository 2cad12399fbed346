/* Small things that every page may use: points of a figure that tell their values, definitions of terms. */
"use strict";

(() => {
  const tip = document.createElement("div");
  tip.className = "l3-tip";
  tip.id = "l3-tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;

  const show = (element, text) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = element.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };
  const hide = () => {
    tip.hidden = true;
  };
  const tell = (element, text) => {
    for (const event of ["mouseenter", "focus"]) element.addEventListener(event, () => show(element, text));
    for (const event of ["mouseleave", "blur"]) element.addEventListener(event, hide);
  };

  const nearest = (points, from, x, y) => {
    const at = (point) => [point.cx.baseVal.value, point.cy.baseVal.value];
    const [fromX, fromY] = at(from);
    const series = (point) => point.dataset.series === from.dataset.series;
    const ahead = points.filter((point) => {
      const [px, py] = at(point);
      if (x) return series(point) && (px - fromX) * x > 0;
      return !series(point) && point.dataset.step === from.dataset.step && (py - fromY) * y > 0;
    });
    const far = (point) => Math.hypot(at(point)[0] - fromX, at(point)[1] - fromY);
    return ahead.sort((a, b) => far(a) - far(b))[0];
  };
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const figure = (group) => {
    const points = [...group.querySelectorAll("circle")];
    let touched = null;
    for (const point of points) {
      const title = point.querySelector("title");
      tell(point, title.textContent);
      title.remove();
    }
    const look = (point) => {
      const view = new URLSearchParams({ task: point.dataset.series, n: point.dataset.step });
      location.assign(`${group.dataset.viewer}#${view}`);
    };
    if (group.dataset.viewer) {
      group.addEventListener("click", (event) => {
        // A finger asks for the value first, and follows it with a second touch.
        const point = event.target.closest("circle");
        if (!point) return;
        if (event.pointerType !== "touch" || point === touched) look(point);
        touched = point;
      });
    }
    group.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (event.key === "Enter" && group.dataset.viewer) look(event.target);
      const step = STEPS[event.key];
      const to = step && nearest(points, event.target, ...step);
      if (!step) return;
      event.preventDefault();
      if (!to) return;
      event.target.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    });
  };

  const term = (link) => {
    const text = link.title;
    link.removeAttribute("title");
    link.setAttribute("aria-description", text);
    tell(link, text);
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(tip);
    document.querySelectorAll(".l3-points").forEach(figure);
    document.querySelectorAll("a.l3-term[title]").forEach(term);
    addEventListener("scroll", hide, { passive: true });
    addEventListener("keydown", (event) => event.key === "Escape" && hide());
  });
})();
