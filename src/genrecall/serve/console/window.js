// A list of which only the rows in sight exist, so that 10,000 of them scroll like ten.

import { h, put } from "./dom.js";

const BEYOND = 8;

// Rows of one height (px). `render(item, place)` gives an element; arrows, Page, Home and End move the focus.
export function windowed(items, { rowHeight, height, label, render, empty }) {
  if (!items.length) return empty ?? h("p", { class: "muted" });
  const inner = h("div", { class: "window-inner", role: "list", "aria-label": label, style: { height: `${items.length * rowHeight}px` } });
  const outer = h("div", { class: "window", style: { "max-height": `${height}px` } }, inner);
  let from = -1, to = -1;

  function draw() {
    const seen = outer.clientHeight || height;
    const first = Math.max(Math.floor(outer.scrollTop / rowHeight) - BEYOND, 0);
    const last = Math.min(Math.ceil((outer.scrollTop + seen) / rowHeight) + BEYOND, items.length);
    if (first === from && last === to) return;
    from = first; to = last;
    put(inner, items.slice(first, last).map((item, index) => h("div", { class: "window-row", role: "listitem",
      "aria-setsize": items.length, "aria-posinset": first + index + 1, "data-place": first + index,
      style: { top: `${(first + index) * rowHeight}px`, height: `${rowHeight}px` } }, render(item, first + index))));
  }

  function focus(place) {
    const wanted = Math.min(Math.max(place, 0), items.length - 1), top = wanted * rowHeight;
    if (top < outer.scrollTop) outer.scrollTop = top;
    else if (top + rowHeight > outer.scrollTop + outer.clientHeight) outer.scrollTop = top + rowHeight - outer.clientHeight;
    draw();
    inner.querySelector(`[data-place="${wanted}"] button, [data-place="${wanted}"] a`)?.focus({ preventScroll: true });
  }

  outer.addEventListener("scroll", draw, { passive: true });
  outer.addEventListener("keydown", (event) => {
    const row = event.target.closest(".window-row");
    if (!row) return;
    const at = Number(row.dataset.place), leap = Math.max(Math.floor(outer.clientHeight / rowHeight) - 1, 1);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + leap, PageUp: at - leap, Home: 0, End: items.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    focus(next);
  });
  draw();
  return outer;
}
