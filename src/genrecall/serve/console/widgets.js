// Parts that several pages share: tabs, suggestions, copying, and what stands where nothing is, not yet, or went wrong.

import { explanation } from "./api.js";
import { debounced, h, put } from "./dom.js";
import { t } from "./words.js";

let made = 0;
const fresh = (name) => `${name}-${(made += 1)}`;

// Tabs by the book: one tab stop, arrows and Home/End move, the panel is named by its tab.
export function tabs(names, { current, label, choose, extra, key }) {
  const panel = h("div", { role: "tabpanel", id: fresh("panel"), tabindex: 0, class: "tabpanel" });
  const list = h("div", { class: "tablist", role: "tablist", "aria-label": label }, names.map(([name, words]) => h("button", {
    type: "button", role: "tab", id: fresh("tab"), "data-key": `${key}-${name}`, "data-name": name, "aria-controls": panel.id,
    "aria-selected": String(name === current), tabindex: name === current ? 0 : -1, onclick: () => choose(name),
  }, words)));
  const all = [...list.children];
  panel.setAttribute("aria-labelledby", all.find((tab) => tab.dataset.name === current)?.id ?? all[0].id);
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = all[(to + all.length) % all.length];
    next.focus();
    next.click();
  });
  return { bar: h("div", { class: "tabs" }, list, extra), panel };
}

// An input that proposes: arrows walk, Enter takes, Escape closes. `find` gives [{value, label, note}].
export function suggest({ label, placeholder, find, choose, key, value }) {
  const list = h("ul", { class: "suggestions", role: "listbox", id: fresh("list"), "aria-label": label });
  const input = h("input", { placeholder, "aria-label": label, autocomplete: "off", role: "combobox", "aria-expanded": "false",
    "aria-controls": list.id, "aria-autocomplete": "list", "data-key": key, spellcheck: "false", value });
  let found = [], at = -1, asked = 0;
  const close = () => { asked += 1; found = []; at = -1; put(list); input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const take = (place) => { const chosen = found[place]; close(); if (chosen) { input.value = ""; choose(chosen.value); } };
  const mark = (place) => {
    at = place;
    [...list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
    input.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const look = debounced(async () => {
    const number = (asked += 1);
    let next = [];
    try { next = await find(input.value); } catch { next = []; }
    if (number !== asked || document.activeElement !== input) return;
    found = next; at = -1;
    put(list, found.map((option, place) => h("li", { role: "option", id: fresh("option"), "aria-selected": "false",
      onpointerdown: (event) => { event.preventDefault(); take(place); } }, h("span", null, option.label), option.note && h("code", { class: "muted small" }, option.note))));
    if (!found.length && input.value.trim()) put(list, h("li", { role: "option", "aria-disabled": "true", "aria-selected": "false", class: "muted" }, t("no_match")));
    input.setAttribute("aria-expanded", String(list.children.length > 0));
  }, 120);
  input.addEventListener("input", look);
  input.addEventListener("focus", look);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && found.length) { event.stopPropagation(); close(); }
    else if (event.key === "ArrowDown" && found.length) { event.preventDefault(); mark((at + 1) % found.length); }
    else if (event.key === "ArrowUp" && found.length) { event.preventDefault(); mark((at - 1 + found.length) % found.length); }
    else if (event.key === "Enter" && found.length) { event.preventDefault(); take(Math.max(at, 0)); }
  });
  return h("div", { class: "suggest" }, input, list);
}

export async function copy(button, text) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = t("copied"); } catch { button.textContent = t("not_copied"); }
  setTimeout(() => { button.textContent = before; }, 1200);
}

export const command = (text) => h("div", { class: "command" }, h("code", { tabindex: 0 }, text),
  h("button", { type: "button", class: "quiet", "aria-label": `${t("copy")}: ${text}`, onclick: (event) => copy(event.target, text) }, t("copy")));

export const empty = (title, hint, ...more) => h("div", { class: "empty" }, h("h2", null, title), hint && h("p", null, hint), more);

export const failed = (error, again) => h("div", { class: "card failed", role: "alert" }, h("h2", null, t("error")), h("p", null, explanation(error)),
  again && h("button", { type: "button", onclick: again }, t("again")));

export const waiting = () => h("div", { class: "waiting", role: "status", "aria-label": t("loading") },
  h("div", { class: "bone short" }), h("div", { class: "bone tall" }), h("div", { class: "bone tall" }));

// Loads a page: bones meanwhile, and a way to try again when it fails.
export function page(main, load, render) {
  let over = false;
  async function go() {
    put(main, waiting());
    try { const told = await load(); if (!over) put(main, render(told)); }
    catch (error) { if (!over) put(main, failed(error, go)); }
  }
  go();
  return () => { over = true; };
}

export const meter = (share, tone) => h("span", { class: `meter ${tone ?? ""}`, "aria-hidden": "true" }, h("i", { style: { "--part": Math.min(Math.max(share, 0), 1) } }));
export const figure = (label, value, { note, tone } = {}) => h("div", { class: `card figure ${tone ?? ""}` },
  h("span", { class: "muted small" }, label), h("b", null, value), note && h("span", { class: "muted small" }, note));

export function table(name, columns, rows) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, h("table", null,
    h("thead", null, h("tr", null, columns.map(([words, kind]) => h("th", { scope: "col", class: kind ?? null }, words)))),
    h("tbody", null, rows)));
}
