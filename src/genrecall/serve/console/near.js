// One item's neighbours by SID beside those by vector: do the codes keep together what belongs together?

import { api, findItems } from "./api.js";
import { h, number, put, sid } from "./dom.js";
import { openItem } from "./drawer.js";
import { empty, failed, suggest, waiting } from "./widgets.js";
import { t, tell } from "./words.js";

function column(title, hint, entries, others, note) {
  return h("section", { class: "near-list", "aria-label": title }, h("h3", null, title), h("p", { class: "muted small" }, hint),
    entries.length === 0 ? h("p", { class: "muted" }, t("no_neighbours")) : h("ol", null, entries.map((item) => h("li", { class: others?.has(item.item_id) ? "both" : null },
      h("button", { type: "button", class: "link title", onclick: () => openItem(item.item_id) }, item.title || item.item_id),
      h("span", { class: "row tight" }, sid(item.sid), h("span", { class: "muted small push" }, note(item)))))));
}

export function neighbours(itemId, proposed) {
  const body = h("div", null);
  async function show(id) {
    put(body, waiting());
    try {
      const told = await api.neighbours(id), ids = (list) => new Set((list ?? []).map((item) => item.item_id));
      const bySid = ids(told.by_sid), byVector = ids(told.by_vector), levels = sid(told.item.sid).children.length;
      put(body, h("div", { class: "row" }, h("b", null, told.item.title || told.item.item_id), h("code", { class: "muted small" }, told.item.item_id), sid(told.item.sid),
        told.both !== null && h("span", { class: "badge" }, tell("in_both", { n: told.both, k: told.by_vector.length }))),
      h("div", { class: "pair" },
        column(t("by_sid"), t("by_sid_hint"), told.by_sid, byVector, (item) => tell("shared_codes", { n: item.shared, all: levels })),
        told.by_vector === null ? h("section", { class: "near-list" }, h("h3", null, t("by_vector")), h("p", { class: "muted" }, t("no_vectors")))
          : column(t("by_vector"), t("by_vector_hint"), told.by_vector, bySid, (item) => `cos ${number(item.cosine, 3)} · ${tell("shared_codes", { n: item.shared, all: levels })}`)));
    } catch (error) { put(body, failed(error, () => show(id))); }
  }
  const section = h("section", { class: "card", id: "near" }, h("h2", null, t("near")), h("p", { class: "muted hint" }, t("near_hint")),
    h("div", { class: "narrow" }, suggest({ label: t("find_item"), placeholder: t("find_item"), find: findItems, key: "near", choose: (item) => {
      history.replaceState(null, "", `#/sids?item=${encodeURIComponent(item.item_id)}`);
      show(item.item_id);
    } })), body);
  if (itemId) { show(itemId); requestAnimationFrame(() => section.scrollIntoView({ block: "start" })); }
  else if (proposed) show(proposed);
  else put(body, empty(t("no_item_chosen"), t("no_item_chosen_hint")));
  return section;
}
