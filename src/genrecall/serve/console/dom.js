// Elements without HTML strings: every text goes in as a text node, so that a hostile title stays a title.

import { locale } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const isShown = (child) => child !== null && child !== undefined && child !== false;

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (!isShown(value)) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else if (name === "value") element.value = value;
    else if (name === "checked") element.checked = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter(isShown));
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

// New content; what had the focus keeps it, if something with the same data-key is there again.
export function put(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children.flat(3).filter(isShown));
  if (focused) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  return parent;
}

const HUES = [228, 158, 28, 280, 340, 190, 60, 110];

// One colour a level, the same all over the console.
export const hue = (level) => HUES[level % HUES.length];

export const codesOf = (text) => text.match(/<[a-z]+_\d+>/g) ?? [];

export function sid(text) {
  return h("span", { class: "sid", title: text },
    codesOf(text).map((code, level) => h("span", { class: "code", style: { "--hue": hue(level) } }, code.slice(1, -1))));
}

export function debounced(work, ms) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), ms); };
}

export const number = (value, digits = 2) => Number(value).toLocaleString(locale(),
  { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const count = (value) => Number(value).toLocaleString(locale(), { maximumFractionDigits: 0 });
export const percent = (value, digits = 1) => `${number(value * 100, digits)}%`;
export const ms = (value) => `${number(value, value < 100 ? 1 : 0)} ms`;
export const bytes = (value) => value < 1024 ? `${count(value)} B` : value < 1 << 20 ? `${number(value / 1024, 1)} KiB` : `${number(value / (1 << 20), 1)} MiB`;
export const day = (seconds) => new Date(seconds * 1000).toLocaleDateString(locale(), { year: "numeric", month: "short", day: "numeric" });
export const moment = (seconds) => new Date(seconds * 1000).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "medium" });
