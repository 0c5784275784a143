// What is known of one item, at the side. A dialog of the browser's own: it keeps the focus in, and gives it back.

import { api } from "./api.js";
import { h, put, sid } from "./dom.js";
import { failed, waiting } from "./widgets.js";
import { locale, t } from "./words.js";

const shown = (value) => typeof value === "number" ? value.toLocaleString(locale(), { maximumFractionDigits: 3 }) : String(value ?? "–");

export async function openItem(itemId, { add } = {}) {
  const body = h("div", { class: "drawer-body" }, waiting());
  const panel = h("dialog", { class: "drawer", "aria-label": `${t("item")} ${itemId}` },
    h("div", { class: "drawer-head" }, h("code", null, itemId),
      h("button", { type: "button", class: "quiet", onclick: () => panel.close(), "aria-label": t("close") }, "✕")), body);
  panel.addEventListener("close", () => panel.remove());
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  document.body.append(panel);
  panel.showModal();

  async function show(id) {
    try {
      const item = await api.item(id);
      put(panel.querySelector(".drawer-head code"), item.item_id);
      panel.setAttribute("aria-label", `${t("item")} ${item.item_id}`);
      const fields = Object.entries(item.fields);
      put(body,
        h("h2", null, item.title || item.item_id),
        h("p", { class: "row" }, sid(item.sid), item.available ? null : h("span", { class: "badge warn" }, t("unavailable"))),
        h("div", { class: "row" },
          add && h("button", { type: "button", class: "primary", onclick: () => { panel.close(); add(item); } }, `+ ${t("add")}`),
          h("a", { class: "button", href: `#/sids?item=${encodeURIComponent(item.item_id)}`, onclick: () => panel.close() }, t("in_lab"))),
        fields.length > 0 && h("section", null, h("h3", null, t("fields")),
          h("dl", null, fields.map(([name, value]) => [h("dt", null, name), h("dd", null, shown(value))]))),
        h("section", null, h("h3", null, t("neighbours")), item.neighbours.length === 0 && h("p", { class: "muted" }, t("no_neighbours")),
          h("ul", { class: "plain" }, item.neighbours.map((other) => h("li", { class: "near" },
            h("button", { type: "button", class: "link", onclick: () => show(other.item_id) }, other.title || other.item_id), sid(other.sid))))));
      panel.scrollTop = 0;
    } catch (error) { put(body, failed(error)); }
  }
  await show(itemId);
}
