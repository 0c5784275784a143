// The playground: choose a user or make up a history, run, and see everything that led to the answer.

import { api } from "./api.js";
import { beamTree } from "./beams.js";
import { debounced, h, put, sid } from "./dom.js";
import { openItem } from "./drawer.js";
import { channelName, coverageStrip, inOrder, resultTable, sideBySide } from "./results.js";
import { t } from "./words.js";

const TABS = ["results", "beams", "lists", "json"];
const FEW = 12;

export function explore(main, asked) {
  const state = {
    mode: asked.get("mode") === "search" ? "search" : "recommend", user: asked.get("user"), query: asked.get("query") ?? "",
    history: [], edited: false, profile: {}, k: Number(asked.get("k") ?? 10), beam: asked.get("beam") ?? "",
    seen: asked.get("seen") !== "0", spread: asked.get("spread") === "1", deadline: asked.get("deadline") ?? "",
    channels: asked.get("channels")?.split(",") ?? null, tab: TABS.includes(asked.get("tab")) ? asked.get("tab") : "results",
    explained: null, error: null, known: [], busy: false, all: false,
  };
  const left = h("div", { class: "panel" }), right = h("div", { class: "stage", "aria-live": "polite" });
  put(main, left, right);

  const refresh = () => { put(left, controls()); put(right, outcome()); };

  let own = location.hash;

  function permalink() {
    if (location.hash !== own) return; // the reader has gone elsewhere meanwhile
    const words = new URLSearchParams();
    if (state.mode === "search") { words.set("mode", "search"); words.set("query", state.query); }
    if (state.user) words.set("user", state.user);
    if (state.edited) words.set("items", state.history.map((item) => item.item_id).join("|"));
    if (state.k !== 10) words.set("k", state.k);
    for (const name of ["beam", "deadline"]) if (state[name]) words.set(name, state[name]);
    if (!state.seen) words.set("seen", "0");
    if (state.spread) words.set("spread", "1");
    if (state.channels) words.set("channels", state.channels.join(","));
    if (state.tab !== "results") words.set("tab", state.tab);
    history.replaceState(null, "", `#/explore?${words}`);
    own = location.hash;
  }

  function request() {
    const body = { k: state.k, explain: true, exclude_seen: state.mode === "search" ? false : state.seen };
    if (state.mode === "search") body.query = state.query;
    if (state.edited || (!state.user && state.history.length)) body.history = state.history.map((item) => item.item_id);
    else if (state.user) body.user_id = state.user;
    if (state.edited && Object.keys(state.profile).length) body.profile = state.profile;
    if (state.beam) body.beam = Number(state.beam);
    if (state.deadline) body.deadline_ms = Number(state.deadline);
    if (state.channels) body.channels = state.channels;
    if (state.spread) body.spread = { levels: 1, most: 2 };
    return body;
  }

  async function run() {
    if (state.mode === "search" && !state.query.trim()) return;
    permalink();
    state.busy = true; state.error = null; right.classList.add("busy");
    try {
      const answer = await (state.mode === "search" ? api.search(request()) : api.recommend(request()));
      state.explained = await api.explain(answer.request_id);
    } catch (error) { state.error = error.message; }
    state.busy = false; right.classList.remove("busy");
    put(right, outcome());
  }

  async function pickUser(user) {
    state.user = user; state.edited = false; state.all = false;
    try {
      const page = await api.user(user);
      state.history = page.history; state.profile = page.profile; state.error = null;
    } catch (error) { state.history = []; state.profile = {}; state.error = error.message; }
    refresh();
    await run();
  }

  const edit = (items) => { state.history = items; state.edited = true; refresh(); run(); };
  const add = (item) => edit([...state.history, { item_id: item.item_id, title: item.title, sid: item.sid }]);

  function suggest(input, find, choose) {
    const list = h("ul", { class: "suggestions", role: "listbox" });
    const look = debounced(async () => {
      try {
        const found = await find(input.value);
        put(list, found.map(([value, label]) => h("li", { role: "option" }, h("button", { type: "button",
          onmousedown: (event) => { event.preventDefault(); put(list); input.value = ""; choose(value); } }, label))));
      } catch { put(list); }
    }, 120);
    input.addEventListener("input", look);
    input.addEventListener("focus", look);
    input.addEventListener("blur", () => put(list));
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") put(list);
      if (event.key === "Enter") { event.preventDefault(); list.querySelector("button")?.dispatchEvent(new Event("mousedown")); }
    });
    return h("div", { class: "suggest" }, input, list);
  }

  const findItems = async (text) => {
    if (!text.trim()) return [];
    const answer = await api.search({ query: text, k: 8, channels: ["lexical"] });
    return answer.items.filter((item) => !item.fallback && item.channels.lexical?.score > 0).map((item) => [item, item.title || item.item_id]);
  };
  const findUsers = async (text) => (await api.users(text)).users.slice(0, 12).map((user) => [user, user]);

  async function anyUser() {
    const { users } = await api.users(String(Math.floor(Math.random() * 10)));
    const some = users.length ? users : (await api.users("")).users;
    if (some.length) pickUser(some[Math.floor(Math.random() * some.length)]);
  }

  function controls() {
    const set = (name, value) => { state[name] = value; run(); };
    const field = (label, input) => h("label", { class: "field" }, h("span", null, label), input);
    return [
      h("div", { class: "modes", role: "tablist" }, ["recommend", "search"].map((mode) => h("button", {
        type: "button", role: "tab", "aria-selected": String(state.mode === mode),
        onclick: () => { state.mode = mode; state.explained = null; refresh(); run(); },
      }, t(mode)))),
      state.mode === "search" && h("form", { class: "searching", onsubmit: (event) => { event.preventDefault(); run(); } },
        h("input", { type: "search", value: state.query, placeholder: t("query_hint"), "aria-label": t("query"), autofocus: true,
          oninput: (event) => { state.query = event.target.value; } }), h("button", { type: "submit" }, t("search"))),
      h("section", null,
        h("div", { class: "row" }, h("h2", null, t("user")),
          h("button", { type: "button", class: "link", onclick: anyUser }, t("random_user"))),
        suggest(h("input", { placeholder: state.user ?? t("pick_user"), "aria-label": t("user"), autocomplete: "off" }), findUsers, pickUser),
        state.user && h("p", { class: "who" }, h("b", null, state.user), Object.entries(state.profile).map(([name, value]) =>
          h("span", { class: "badge" }, `${name}: ${value}`)))),
      h("section", null,
        h("div", { class: "row" }, h("h2", null, t("history"), h("span", { class: "muted small" }, ` ${state.history.length}`)),
          state.edited && h("span", { class: "badge warn" }, t("edited")),
          state.edited && state.user && h("button", { type: "button", class: "link", onclick: () => pickUser(state.user) }, t("reset"))),
        timeline(),
        suggest(h("input", { placeholder: t("add_item"), "aria-label": t("add_item"), autocomplete: "off" }), findItems, add)),
      h("details", { class: "settings", open: matchMedia("(min-width: 981px)").matches }, h("summary", null, t("settings")),
      h("section", { class: "knobs" },
        field(t("k"), h("input", { type: "number", min: 1, max: 200, value: state.k, onchange: (e) => set("k", Number(e.target.value) || 10) })),
        field(t("beam"), h("input", { type: "number", min: 1, max: 1024, value: state.beam, placeholder: "auto", onchange: (e) => set("beam", e.target.value) })),
        field(t("deadline"), h("input", { type: "number", min: 1, max: 60000, value: state.deadline, placeholder: "auto", onchange: (e) => set("deadline", e.target.value) })),
        state.mode === "recommend" && h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.seen, onchange: (e) => set("seen", e.target.checked) }), t("exclude_seen")),
        h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.spread, onchange: (e) => set("spread", e.target.checked) }), t("spread"))),
      state.known.length > 0 && h("section", null, h("div", { class: "row" }, h("h2", null, t("channels")),
        state.channels ? h("button", { type: "button", class: "link", onclick: () => { state.channels = null; refresh(); run(); } }, t("reset"))
          : h("span", { class: "muted small" }, t("all_channels"))),
      h("div", { class: "toggles" }, inOrder(state.known).map((name) => {
        const on = state.channels ? state.channels.includes(name) : false;
        return h("button", { type: "button", class: "toggle", "aria-pressed": String(on), onclick: () => {
          const next = on ? state.channels.filter((other) => other !== name) : [...(state.channels ?? []), name];
          state.channels = next.length ? next : null; refresh(); run();
        } }, channelName(name));
      })))),
      h("button", { type: "button", class: "run", onclick: run }, t("run")),
    ];
  }

  function timeline() {
    if (!state.history.length) return h("p", { class: "muted hint" }, state.user ? t("cold") : t("history_hint"));
    const items = state.history, first = state.all ? 0 : Math.max(items.length - FEW, 0);
    const list = h("ol", { class: "timeline", start: first + 1 },
      first > 0 && h("li", { class: "more" }, h("button", { type: "button", class: "link", onclick: () => { state.all = true; refresh(); } }, `… ${first} +`)),
      items.slice(first).map((item, place) => h("li", null,
        h("button", { type: "button", class: "link title", onclick: () => openItem(item.item_id, { add }) }, item.title || item.item_id),
        item.sid ? sid(item.sid) : h("span", { class: "muted small" }, t("unavailable")),
        h("button", { type: "button", class: "quiet remove", "aria-label": `− ${item.title || item.item_id}`,
          onclick: () => edit(items.filter((_, index) => index !== first + place)) }, "✕"))));
    requestAnimationFrame(() => { list.scrollTop = list.scrollHeight; }); // the newest matter most
    return list;
  }

  function outcome() {
    if (state.error) return h("div", { class: "card error" }, h("b", null, t("error")), h("p", null, state.error));
    if (!state.explained) return h("div", { class: "empty" }, h("h2", null, t("nothing")), h("p", null, t("nothing_hint")),
      h("button", { type: "button", onclick: anyUser }, t("random_user")));
    const { answer } = state.explained;
    const pages = {
      results: () => resultTable(answer, { add }), beams: () => beamTree(state.explained), lists: () => sideBySide(state.explained, { add }),
      json: () => h("div", null, h("button", { type: "button", class: "quiet", onclick: (event) => copyCurl(event.target) }, t("copy_curl")),
        h("pre", { class: "json", tabindex: 0 }, JSON.stringify(answer, null, 2))),
    };
    return [coverageStrip(answer),
      h("div", { class: "tabs", role: "tablist" }, TABS.map((name) => h("button", { type: "button", role: "tab", "aria-selected": String(state.tab === name),
        onclick: () => { state.tab = name; permalink(); put(right, outcome()); } }, t(name))),
      h("button", { type: "button", class: "quiet push", onclick: (event) => copy(event.target, location.href) }, t("copy_link"))),
      h("div", { role: "tabpanel" }, pages[state.tab]())];
  }

  function copyCurl(button) {
    const path = state.mode === "search" ? "search" : "recommend", body = JSON.stringify(request()).replaceAll("'", "'\\''");
    copy(button, `curl -s ${location.origin}/v1/${path} -H 'content-type: application/json' -d '${body}'`);
  }

  async function copy(button, text) {
    await navigator.clipboard.writeText(text);
    const before = button.textContent;
    button.textContent = t("copied");
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  async function begin() {
    const told = await api.health();
    state.known = told.releases.active?.channels ?? [];
    const request = asked.get("request");
    if (request) {
      try { state.explained = await api.explain(request); } catch { state.error = t("gone"); }
      refresh();
    } else if (asked.get("items")) {
      const pages = await Promise.all(asked.get("items").split("|").map((id) => api.item(id).catch(() => null)));
      state.edited = true; state.history = pages.filter(Boolean);
      refresh(); await run();
    } else if (state.user) await pickUser(state.user);
    else { refresh(); await run(); }
  }

  refresh();
  begin().catch((error) => { state.error = error.message; refresh(); });
}
