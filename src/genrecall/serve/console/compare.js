// The same request to two bundles: what the other one answers in place of the active one.

import { ms, h, percent, put } from "./dom.js";
import { itemButton } from "./results.js";
import { command, empty, failed, waiting } from "./widgets.js";
import { t, tell } from "./words.js";

function move(item, others) {
  const there = others.get(item.item_id);
  if (there === undefined) return h("span", { class: "badge only" }, t("only_this"));
  const by = there - item.rank;
  return h("span", { class: `move ${by > 0 ? "up" : by < 0 ? "down" : ""}`, title: tell("rank_there", { n: there }) },
    by === 0 ? "=" : `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}`);
}

function column(answer, other, role, add) {
  const ranks = new Map(other.items.map((item) => [item.item_id, item.rank]));
  return h("section", { class: "card versus", "aria-label": t(role) },
    h("div", { class: "row spread" }, h("h2", null, t(role)), h("code", { class: "muted small", title: answer.versions.bundle }, answer.versions.bundle.slice(7, 15))),
    h("p", { class: "muted small" }, `${ms(answer.timing_ms.total)} · ${answer.versions.fusion} · ${t(answer.coverage.degraded ? "degraded" : "complete")}`),
    h("ol", null, answer.items.map((item) => h("li", { class: ranks.has(item.item_id) ? "" : "unique" },
      h("span", { class: "muted small" }, item.rank), itemButton(item, { add }), move(item, ranks)))));
}

function overlap(one, other) {
  const ids = new Set(one.items.map((item) => item.item_id));
  const both = other.items.filter((item) => ids.has(item.item_id)).length;
  return both / Math.max(one.items.length, other.items.length, 1);
}

export function compare(state, { ask, add, changed }) {
  if (!state.roles.length) {
    return empty(t("one_bundle"), t("one_bundle_hint"), command("genrecall release stage BUNDLE --state STATE"));
  }
  if (!state.roles.includes(state.with)) state.with = state.roles[0];
  const body = h("div", null, waiting());
  const choose = h("div", { class: "row" }, h("span", { class: "muted" }, t("compare_with")), h("div", { class: "toggles", role: "group", "aria-label": t("compare_with") },
    state.roles.map((role) => h("button", { type: "button", class: "toggle", "aria-pressed": String(role === state.with), "data-key": `with-${role}`,
      onclick: (event) => {
        state.with = role; changed();
        for (const button of event.target.parentNode.children) button.setAttribute("aria-pressed", String(button === event.target));
        look();
      } }, t(role)))));

  async function look() {
    put(body, waiting());
    try {
      const [one, other] = await Promise.all([ask({ release: "active" }), ask({ release: state.with })]);
      put(body, h("p", null, tell("overlap", { share: percent(overlap(one, other), 0), k: Math.max(one.items.length, other.items.length) })),
        h("div", { class: "pair" }, column(one, other, "active", add), column(other, one, state.with, add)));
    } catch (error) { put(body, failed(error, look)); }
  }
  look();
  return h("div", { class: "stack" }, choose, body);
}
