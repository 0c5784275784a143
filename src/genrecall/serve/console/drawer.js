// What is known of one item, at the side.

import { api } from "./api.js";
import { h, put, sid } from "./dom.js";
import { t } from "./words.js";

const shown = (value) => typeof value === "number" ? value.toLocaleString(undefined, { maximumFractionDigits: 3 }) : String(value ?? "–");

export async function openItem(itemId, { add } = {}) {
  const before = document.activeElement;
  const body = h("div", { class: "drawer-body" }, h("p", { class: "muted" }, "…"));
  const close = () => { shade.remove(); removeEventListener("keydown", onKey); before?.focus(); };
  const onKey = (event) => { if (event.key === "Escape") close(); };
  const closing = h("button", { type: "button", class: "quiet", onclick: close, "aria-label": t("close") }, "✕");
  const panel = h("aside", { class: "drawer", role: "dialog", "aria-modal": "true", "aria-label": itemId },
    h("div", { class: "drawer-head" }, h("code", null, itemId), closing), body);
  const shade = h("div", { class: "shade", onclick: (event) => { if (event.target === shade) close(); } }, panel);
  document.body.append(shade);
  addEventListener("keydown", onKey);
  closing.focus();
  try {
    const item = await api.item(itemId);
    put(body,
      h("h2", null, item.title || item.item_id),
      h("p", null, sid(item.sid), item.available ? null : h("span", { class: "badge warn" }, t("unavailable"))),
      add && h("button", { type: "button", onclick: () => { add(item); close(); } }, `+ ${t("add")}`),
      Object.keys(item.fields).length > 0 && h("section", null, h("h3", null, t("fields")),
        h("dl", null, Object.entries(item.fields).map(([name, value]) =>
          [h("dt", null, name), h("dd", null, shown(value))]))),
      h("section", null, h("h3", null, t("neighbours")),
        h("ul", { class: "plain" }, item.neighbours.map((other) => h("li", null,
          h("button", { type: "button", class: "link", onclick: () => { close(); openItem(other.item_id, { add }); } },
            other.title || other.item_id), " ", sid(other.sid))))));
  } catch (error) {
    put(body, h("p", { class: "error" }, error.message));
  }
}
