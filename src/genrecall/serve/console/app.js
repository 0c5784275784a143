// Pages by hash, one header. A page is a function that fills an element and may return how to leave it.

import { data } from "./data.js";
import { h, put } from "./dom.js";
import { experiments } from "./experiments.js";
import { explore } from "./explore.js";
import { live } from "./live.js";
import { releases } from "./releases.js";
import { sids } from "./sids.js";
import { t, toggleLanguage } from "./words.js";

const PAGES = { explore, sids, live, experiments, releases, data };
const root = document.getElementById("app"), top = h("div", null), body = h("div", null);
let leave = null;

const dark = () => document.documentElement.dataset.theme === "dark";

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

const system = matchMedia("(prefers-color-scheme: dark)");
setTheme(localStorage.getItem("theme") ?? (system.matches ? "dark" : "light"));
system.addEventListener("change", () => { if (!localStorage.getItem("theme")) setTheme(system.matches ? "dark" : "light"); });

function place() {
  const [page, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: page in PAGES ? page : "explore", asked: new URLSearchParams(query ?? "") };
}

function header(current) {
  return [
    h("button", { type: "button", class: "skip", onclick: () => document.getElementById("main").focus() }, t("skip")),
    h("header", { class: "top" },
      h("a", { class: "brand", href: "#/explore", "data-key": "brand" },
        h("img", { src: "console/icon.svg", alt: "", width: 26, height: 26 }), h("b", null, "genrecall")),
      h("nav", { "aria-label": t("pages") }, Object.keys(PAGES).map((name) =>
        h("a", { href: `#/${name}`, "data-key": `nav-${name}`, "aria-current": name === current ? "page" : null }, t(name)))),
      h("div", { class: "tools" },
        h("button", { class: "quiet", type: "button", "data-key": "language", lang: t("other_language"), onclick: () => { toggleLanguage(); show(); } }, t("language")),
        h("button", { class: "quiet", type: "button", "data-key": "theme", "aria-label": t("theme"), title: t("theme"),
          onclick: () => { const next = dark() ? "light" : "dark"; localStorage.setItem("theme", next); setTheme(next); } }, "◐"))),
  ];
}

function show() {
  leave?.();
  const { page, asked } = place();
  const main = h("main", { id: "main", class: page, tabindex: -1 });
  put(top, header(page));
  top.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  put(body, main);
  document.title = `${t(page)} · genrecall`;
  leave = PAGES[page](main, asked) ?? null;
}

put(root, top, body);
addEventListener("hashchange", show);
show();
