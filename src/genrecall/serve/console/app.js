// Pages by hash, one header, one drawer. A page is a function that fills an element and may return how to leave it.

import { h, put } from "./dom.js";
import { explore } from "./explore.js";
import { live } from "./live.js";
import { releases } from "./releases.js";
import { sids } from "./sids.js";
import { t, toggleLanguage } from "./words.js";

const PAGES = { explore, live, sids, releases };
const root = document.getElementById("app");
let leave = null;

const dark = () => document.documentElement.dataset.theme === "dark";

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

setTheme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

export function place() {
  const [page, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: page in PAGES ? page : "explore", asked: new URLSearchParams(query ?? "") };
}

function header(current) {
  return h("header", { class: "top" },
    h("a", { class: "brand", href: "#/explore" },
      h("img", { src: "console/icon.svg", alt: "", width: 26, height: 26 }), h("b", null, "genrecall")),
    h("nav", { "aria-label": "pages" }, Object.keys(PAGES).map((name) =>
      h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, t(name)))),
    h("div", { class: "tools" },
      h("button", { class: "quiet", type: "button", onclick: () => { toggleLanguage(); show(); } }, t("language")),
      h("button", { class: "quiet", type: "button", "aria-label": t("theme"), title: t("theme"),
        onclick: () => setTheme(dark() ? "light" : "dark") }, "◐")));
}

function show() {
  leave?.();
  const { page, asked } = place();
  const main = h("main", { id: "main", class: page });
  put(root, header(page), main);
  document.title = `${t(page)} · genrecall`;
  leave = PAGES[page](main, asked) ?? null;
}

addEventListener("hashchange", show);
show();
