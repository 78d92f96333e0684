/** What rerail did lately: a table that keeps itself current. */

import { api } from "./api.js";
import { announce, byId, h } from "./dom.js";
import { ago, count, moment, number, plural, seconds } from "./format.js";

const EVERY = 4000; // milliseconds between two looks

export class Interventions {
  #active = false;
  #timer = null;
  #asking = null;
  #known = new Set();
  #needsKey;

  constructor({ onNeedsKey }) {
    this.#needsKey = onNeedsKey;
    byId("filters").addEventListener("change", () => {
      this.#known.clear();
      this.#look();
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("refresh").addEventListener("change", () => this.#look());
    document.addEventListener("visibilitychange", () => this.#look());
  }

  configure({ policies }) {
    const select = byId("filters").elements.policy;
    const kept = select.value;
    select.replaceChildren(
      h("option", { value: "" }, "any"),
      ...policies.map((name) => h("option", { selected: name === kept }, name)),
    );
  }

  show() {
    this.#active = true;
    return this.#look();
  }

  hide() {
    this.#active = false;
    clearTimeout(this.#timer);
    this.#asking?.abort();
  }

  get #filters() {
    const { outcome, policy, since, limit } = Object.fromEntries(new FormData(byId("filters")));
    const from = since ? new Date(Date.now() - Number(since) * 1000).toISOString() : "";
    return { limit, outcome, policy, since: from };
  }

  async #look() {
    clearTimeout(this.#timer);
    if (!this.#active || document.hidden) return;
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const { interventions } = await api.interventions(this.#filters, asking.signal);
      this.#paint(interventions);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#empty(error.message);
      if (error.wantsKey) {
        this.#needsKey(error, true);
        return;
      }
    }
    if (byId("refresh").checked) this.#timer = setTimeout(() => this.#look(), EVERY);
  }

  #paint(rows) {
    const fresh = this.#known.size > 0 ? rows.filter((row) => !this.#known.has(row.id)) : [];
    this.#known = new Set(rows.map((row) => row.id));
    byId("table-meta").textContent = plural(rows.length, "row");
    byId("records").hidden = rows.length === 0;
    byId("records").tBodies[0].replaceChildren(...rows.map((row) => line(row, fresh.includes(row))));
    this.#empty(rows.length === 0 ? "Nothing here yet. Ask something, or widen the filters." : "");
    if (fresh.length > 0) announce(`${plural(fresh.length, "new intervention")}.`);
  }

  #empty(text) {
    byId("records-empty").hidden = text === "";
    byId("records-empty").textContent = text;
  }
}

function line(row, fresh) {
  const cell = (label, attributes, ...children) => h("td", { "data-label": label, ...attributes }, ...children);
  return h(
    "tr",
    { class: fresh ? "fresh" : null },
    h("th", { scope: "row", "data-label": "When", title: moment(row.at) }, h("time", { datetime: String(row.at) }, ago(row.at))),
    cell("Outcome", {}, h("span", { class: `badge ${row.outcome}` }, row.outcome)),
    cell("Harm", { class: "change" }, change(row.harm_before, row.harm_after)),
    cell("Generations", { class: "number" }, count(row.generations)),
    cell("Time", { class: "number" }, seconds(row.seconds)),
    cell("Accepted from", {}, row.accepted_from),
    cell("Policy", {}, h("a", { href: `#/policies/${encodeURIComponent(row.policy)}` }, row.policy), " ", h("code", {}, row.version)),
    cell("Model", { class: "model" }, row.model),
  );
}

function change(before, after) {
  const value = (harm) => h("span", { class: harm >= 1 ? "harm over" : "harm" }, number(harm));
  if (after === null || after === undefined || after === before) return value(before);
  return h("span", {}, value(before), h("span", { class: "to", "aria-hidden": "true" }, "→"), h("span", { class: "visually-hidden" }, "to"), value(after));
}
