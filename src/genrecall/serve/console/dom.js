// Elements without HTML strings: every text goes in as a text node, so that a hostile title stays a title.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else if (name === "value") element.value = value;
    else if (name === "checked") element.checked = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

export function put(parent, ...children) {
  parent.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return parent;
}

const HUES = [228, 158, 28, 280, 340, 190, 60, 110];

// One colour a level, the same all over the console.
export const hue = (level) => HUES[level % HUES.length];

export function sid(text, { short = false } = {}) {
  const codes = text.match(/<[a-z]+_\d+>/g) ?? [];
  const last = codes.length - 1;
  return h("span", { class: "sid", title: text },
    codes.map((code, level) => h("span",
      { class: "code", style: { "--hue": hue(level) } }, short && level < last ? code.slice(1, -1) : code.slice(1, -1))));
}

export function debounced(work, ms) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), ms); };
}

export const number = (value, digits = 2) => Number(value).toLocaleString(undefined,
  { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const percent = (value, digits = 1) => `${number(value * 100, digits)}%`;
