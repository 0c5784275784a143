// The console speaks the same API as every client.

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
  });
  const told = await answer.json();
  if (!answer.ok && path !== "health/ready") throw new Refused(told, answer.status);
  return told;
}

export const api = {
  recommend: (asked) => call("POST", "v1/recommend", asked),
  search: (asked) => call("POST", "v1/search", asked),
  explain: (id) => call("GET", `v1/explain/${encodeURIComponent(id)}`),
  item: (id) => call("GET", `v1/items/${encodeURIComponent(id)}`),
  user: (id) => call("GET", `v1/users/${encodeURIComponent(id)}`),
  users: (prefix) => call("GET", `v1/users?prefix=${encodeURIComponent(prefix)}`),
  health: () => call("GET", "health"),
  sids: () => call("GET", "v1/sids"),
  event: (event) => call("POST", "v1/events", { events: [event] }),
};
