// Which bundle answers whom. Changing that is left to the machine's owner.

import { api } from "./api.js";
import { h, put } from "./dom.js";
import { t } from "./words.js";

function card(role, release, note) {
  return h("section", { class: `card release ${release ? role : "absent"}` }, h("h2", null, t(role), note && h("span", { class: "badge" }, note)),
    release ? [h("code", { class: "digest", title: release.digest }, release.digest), h("dl", null,
      h("dt", null, t("items")), h("dd", null, release.items.toLocaleString()),
      h("dt", null, t("channels")), h("dd", null, release.channels.join(", ")),
      h("dt", null, t("beam")), h("dd", null, release.beam),
      h("dt", null, t("worker")), h("dd", null, release.worker ?? t("none"), release.restarts ? ` · ${release.restarts} ${t("restarts")}` : ""))]
      : h("p", { class: "muted" }, t("none")));
}

export function releases(main) {
  api.health().then(({ releases: told }) => put(main,
    h("h1", null, t("releases")),
    h("div", { class: "three" }, card("active", told.active), card("candidate", told.candidate, told.candidate && `${t("canary")} ${told.canary_percent}%`),
      card("previous", told.previous)),
    h("p", null, `${t("delisted")}: `, h("b", null, told.delisted)),
    h("section", { class: "card" }, h("h2", null, t("how")), h("p", { class: "muted" }, t("how_hint")),
      h("pre", { class: "json", tabindex: 0 }, ["genrecall release stage BUNDLE --state STATE", "genrecall release canary 5 --state STATE",
        "genrecall release activate --state STATE", "genrecall release rollback --state STATE",
        "genrecall release delist ITEM … --state STATE"].join("\n"))),
  )).catch((error) => put(main, h("div", { class: "card error" }, error.message)));
}
