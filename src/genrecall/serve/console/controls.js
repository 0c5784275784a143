// The left side of the playground: whom to answer, what is known of them, and how to answer.

import { api, findItems } from "./api.js";
import { day, h, sid } from "./dom.js";
import { openItem } from "./drawer.js";
import { channelName, inOrder } from "./results.js";
import { suggest } from "./widgets.js";
import { t, tell } from "./words.js";

const FEW = 12;

const findUsers = async (text) => (await api.users(text)).users.slice(0, 12).map((user) => ({ value: user, label: user }));

export function controls(tools) {
  const { state, run, refresh } = tools;
  const mode = (name) => h("button", { type: "button", "aria-pressed": String(state.mode === name), "data-key": `mode-${name}`,
    onclick: () => { if (state.mode !== name) { state.mode = name; state.explained = null; state.error = null; refresh(); run(); } } }, t(name));
  return [
    h("div", { class: "modes", role: "group", "aria-label": t("mode") }, mode("recommend"), mode("search")),
    state.mode === "search" && h("form", { class: "searching", role: "search", onsubmit: (event) => { event.preventDefault(); run(); } },
      h("input", { type: "search", value: state.query, placeholder: t("query_hint"), "aria-label": t("query"), "data-key": "query",
        oninput: (event) => { state.query = event.target.value; } }), h("button", { type: "submit", class: "primary", "data-key": "find" }, t("search"))),
    who(tools), past(tools), settings(tools),
    state.mode === "recommend" && h("button", { type: "button", class: "primary", "data-key": "run", onclick: run }, t("run")),
  ];
}

function who({ state, pickUser, anyUser, refresh, run }) {
  const drop = () => { Object.assign(state, { user: null, history: [], profile: {}, edited: false }); refresh(); run(); };
  return h("section", null,
    h("div", { class: "row spread" }, h("h2", null, t("user")),
      h("button", { type: "button", class: "link", "data-key": "any", onclick: anyUser }, t("random_user"))),
    suggest({ label: t("user"), placeholder: t("pick_user"), find: findUsers, choose: pickUser, key: "user" }),
    state.user && h("div", { class: "who" }, h("b", null, state.user), Object.entries(state.profile).map(([name, value]) =>
      h("span", { class: "badge" }, `${name}: ${value}`)),
    h("button", { type: "button", class: "quiet tiny push", "aria-label": t("no_user"), title: t("no_user"), "data-key": "drop", onclick: drop }, "✕")));
}

function past(tools) {
  const { state, pickUser, add } = tools;
  return h("section", null,
    h("div", { class: "row" }, h("h2", null, t("history"), state.history.length > 0 && h("span", { class: "muted small" }, ` ${state.history.length}`)),
      state.edited && h("span", { class: "badge warn" }, t("edited")),
      state.edited && state.user && h("button", { type: "button", class: "link push", "data-key": "reset", onclick: () => pickUser(state.user) }, t("reset"))),
    timeline(tools),
    suggest({ label: t("add_item"), placeholder: t("add_item"), find: findItems, choose: add, key: "add" }));
}

function timeline({ state, edit, add, refresh }) {
  const items = state.history;
  if (!items.length) return h("p", { class: "muted hint" }, state.user ? t("cold") : t("history_hint"));
  const first = state.all ? 0 : Math.max(items.length - FEW, 0);
  let date = "";
  const rows = items.slice(first).flatMap((item, place) => {
    const name = item.title || item.item_id, when = item.timestamp ? day(item.timestamp) : "", turned = when !== date;
    date = when;
    return [turned && when && h("li", { class: "day" }, when), h("li", { class: "past" },
      h("button", { type: "button", class: "link title", onclick: () => openItem(item.item_id, { add }) }, name),
      item.sid ? sid(item.sid) : h("span", { class: "muted small" }, t("not_in_bundle")),
      h("button", { type: "button", class: "quiet remove", "aria-label": tell("remove", { name }), title: t("remove_short"),
        onclick: () => edit(items.filter((_, index) => index !== first + place)) }, "✕"))];
  });
  const list = h("ol", { class: "timeline", tabindex: 0, "aria-label": t("history") },
    first > 0 && h("li", { class: "more" }, h("button", { type: "button", class: "link", "data-key": "earlier",
      onclick: () => { state.all = true; refresh(); } }, tell("earlier", { n: first }))), rows);
  requestAnimationFrame(() => { list.scrollTop = list.scrollHeight; }); // the newest matter most
  return list;
}

function settings(tools) {
  const { state, run } = tools;
  const set = (name, value) => { state[name] = value; run(); };
  const field = (label, name, limits, placeholder) => h("label", { class: "field" }, h("span", null, label),
    h("input", { type: "number", ...limits, value: state[name], placeholder, "data-key": name,
      onchange: (event) => set(name, name === "k" ? Math.min(Math.max(Number(event.target.value) || 10, 1), 1000) : event.target.value) }));
  const check = (label, name) => h("label", { class: "check" }, h("input", { type: "checkbox", checked: state[name], "data-key": name,
    onchange: (event) => set(name, event.target.checked) }), label);
  const open = state.open ?? matchMedia("(min-width: 981px)").matches;
  return h("details", { class: "settings", open, ontoggle: (event) => { state.open = event.target.open; } }, h("summary", { "data-key": "settings" }, t("settings")),
    h("section", { class: "knobs" }, field(t("k"), "k", { min: 1, max: 1000 }), field(t("beam"), "beam", { min: 1, max: 1024 }, t("auto")),
      field(t("deadline"), "deadline", { min: 1, max: 60000 }, t("auto")),
      state.mode === "recommend" && check(t("exclude_seen"), "seen"), check(t("spread"), "spread")),
    state.known.length > 0 && channels(tools));
}

// Pressed are the channels that answer: those chosen here, or those that the bundle or an experiment chose.
function channels({ state, run }) {
  const answering = state.channels ?? Object.keys(state.explained?.answer.coverage.channels ?? {});
  const toggle = (name) => {
    const next = answering.includes(name) ? answering.filter((other) => other !== name) : [...answering, name];
    state.channels = next.length ? next : null;
    run();
  };
  return h("section", null, h("div", { class: "row" }, h("h2", null, t("channels")),
    state.channels ? h("button", { type: "button", class: "link push", "data-key": "channels", onclick: () => { state.channels = null; run(); } }, t("reset"))
      : h("span", { class: "muted small" }, t("all_channels"))),
  h("div", { class: "toggles" }, inOrder(state.known).map((name) => h("button", { type: "button", class: `toggle ${state.channels ? "" : "given"}`,
    "aria-pressed": String(answering.includes(name)), "data-key": `channel-${name}`, onclick: () => toggle(name) }, channelName(name)))));
}
