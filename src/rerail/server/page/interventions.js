/** What rerail did lately: a table that keeps itself current. */

import { called } from "./answer.js";
import { api } from "./api.js";
import { announce, ask, byId, h, redraw } from "./dom.js";
import { ago, count, moment, number, percent, plural, seconds, signed } from "./format.js";
import { explained, meaning } from "./terms.js";

const EVERY = 4000; // milliseconds between two looks

export class Interventions {
  #active = false;
  #timer = null;
  #asking = null;
  #known = new Set();
  #pages = []; // the last id of each page before the one that is shown
  #rows = [];
  #served = {}; // what each model was loaded from, by the name that clients ask for
  #needsKey;

  constructor({ onNeedsKey }) {
    this.#needsKey = onNeedsKey;
    byId("filters").addEventListener("change", () => this.#turn([]));
    byId("older").addEventListener("click", () => this.#turn([...this.#pages, this.#rows.at(-1).id]));
    byId("newer").addEventListener("click", () => this.#turn(this.#pages.slice(0, -1)));
    for (const format of ["csv", "jsonl"]) {
      byId(`export-${format}`).addEventListener("click", () => this.#export(format));
    }
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("refresh").addEventListener("change", () => this.#look());
    document.addEventListener("visibilitychange", () => this.#look());
  }

  configure({ policies, served = {} }) {
    this.#served = served;
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
    const { since, ...others } = Object.fromEntries(new FormData(byId("filters")));
    const from = since ? new Date(Date.now() - Number(since) * 1000).toISOString() : "";
    for (const name of ["tenant", "category"]) others[name] = others[name].trim();
    return { ...others, since: from };
  }

  /** Show the page behind these. */
  #turn(pages) {
    this.#pages = pages;
    this.#known.clear();
    this.#look();
  }

  async #export(format) {
    const { limit, ...filters } = this.#filters;
    try {
      const file = await api.exported({ ...filters, format });
      const href = URL.createObjectURL(file);
      h("a", { href, download: `interventions.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 60_000);
      announce("Exported.");
    } catch (error) {
      this.#empty(error.message);
      if (error.wantsKey) this.#needsKey(error, true);
    }
  }

  async #look() {
    clearTimeout(this.#timer);
    if (!this.#active || document.hidden) return;
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const after = this.#pages.at(-1) ?? "";
      const found = await api.interventions({ ...this.#filters, after }, asking.signal);
      this.#paint(found.interventions, found.has_more);
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

  #paint(rows, more) {
    this.#rows = rows;
    const [newer, older] = [byId("newer"), byId("older")];
    newer.disabled = this.#pages.length === 0;
    older.disabled = !more;
    if (document.activeElement.disabled) (more ? older : newer).focus();
    byId("categories-seen").replaceChildren(
      ...[...new Set(rows.flatMap((row) => Object.keys(row.scores_before ?? {})))].sort().map((value) => h("option", { value })),
    );
    const fresh = this.#known.size > 0 ? rows.filter((row) => !this.#known.has(row.id)) : [];
    this.#known = new Set(rows.map((row) => row.id));
    byId("table-meta").textContent = `${plural(rows.length, "row")}, page ${this.#pages.length + 1}`;
    byId("records").hidden = rows.length === 0;
    redraw(byId("records").tBodies[0], ...rows.map((row) => this.#line(row, fresh.includes(row))));
    this.#empty(rows.length === 0 ? "Nothing here yet. Ask something, or widen the filters." : "");
    if (fresh.length > 0) announce(`${plural(fresh.length, "new intervention")}.`);
  }

  #empty(text) {
    byId("records-empty").hidden = text === "";
    byId("records-empty").textContent = text;
  }

  /** The names by which clients ask for what answered; its own where none serves it any more. */
  #model({ model }) {
    const names = Object.keys(this.#served).filter((name) => this.#served[name] === model);
    return names.join(", ") || model;
  }

  #line(row, fresh) {
    const cell = (label, attributes, ...children) => h("td", { "data-label": label, ...attributes }, ...children);
    return h(
      "tr",
      { class: fresh ? "fresh" : null },
      h("th", { scope: "row", "data-label": "When", title: moment(row.at) }, h("time", { datetime: String(row.at) }, ago(row.at))),
      cell("Outcome", {}, badge(row)),
      cell("Harm", { class: "change" }, change(row.harm_before, row.harm_after)),
      cell("Generations", { class: "number" }, count(row.generations)),
      cell("Time", { class: "number" }, seconds(row.seconds)),
      cell("Accepted from", {}, row.accepted_from),
      cell("Policy", {}, h("a", { href: `#/policies/${encodeURIComponent(row.policy)}`, "data-id": `${row.id}/policy` }, row.policy), " ", h("code", {}, row.version)),
      cell("Model", { class: "model", title: row.model }, this.#model(row)),
      h("td", {}, h("button", { type: "button", class: "link", "data-id": row.id, "aria-label": `Open ${row.id}`, onclick: () => this.#open(row) }, "Open")),
    );
  }

  async #open(row) {
    const facts = [
      ["Id", h("code", {}, row.id)],
      ["When", moment(row.at)],
      ["Tenant", row.tenant],
      ["Model", this.#model(row) === row.model ? row.model : `${this.#model(row)}, loaded from ${row.model}`],
      ["Policy", `${row.policy} @ ${row.version}${row.audit ? ", audit" : ""}`],
      ["Outcome", badge(row)],
      ["Harm", change(row.harm_before, row.harm_after)],
      ["Cost", `${plural(row.generations, "generation")}, ${plural(row.generated_tokens, "token")}, ${plural(row.moderator_calls, "verdict")}, ${seconds(row.seconds)}`],
      ["Accepted from", row.accepted_from],
      ["Layer", row.layer],
      ["Noted", row.noted?.join(", ")],
      ["Ended by", row.stop_reason],
      ["Naturalness", row.naturalness === null ? null : `${signed(row.naturalness)} nats per token`],
      ["Tokens preserved", percent(row.tokens_preserved)],
      ["Seed", String(row.seed)],
      ["Error", row.error],
    ];
    byId("record-facts").replaceChildren(
      ...facts.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, explained(name)), h("dd", {}, value)]),
    );
    byId("record-scores").replaceChildren(scores(row));
    byId("record-texts").replaceChildren(...texts(row));
    byId("record").scrollTop = 0;
    await ask(byId("record"));
    // The row may have been drawn anew meanwhile.
    document.querySelector(`#records [data-id="${CSS.escape(row.id)}"]`)?.focus();
  }
}

const badge = ({ outcome }) => h("span", { class: `badge ${outcome}`, title: meaning(outcome) }, outcome);

function scores({ scores_before: before, scores_after: after }) {
  const names = Object.keys({ ...before, ...after });
  if (names.length === 0) return h("p", { class: "hint" }, "There are no scores.");
  names.sort((a, b) => (before?.[b] ?? 0) - (before?.[a] ?? 0));
  return h(
    "table",
    { class: "plain" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Score, 0 to 1"), ["First answer", "What left"].map((name) => h("th", { scope: "col", class: "number" }, name)))),
    h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), [before, after].map((of) => h("td", { class: "number" }, number(of?.[name])))))),
  );
}

function texts(row) {
  if (!row.prompt) return [h("p", { class: "hint" }, "No texts are recorded: the policy's record_text is off.")];
  const said = (text) => h("p", { class: "said", dir: "auto" }, text);
  const part = (title, text) => [h("h3", {}, title), said(text)];
  return [
    ...row.prompt.flatMap(({ role, content, tool_calls: calls }) => [...part(role, content), ...called(calls)]),
    row.first_answer === null ? null : h("details", {}, h("summary", {}, "first answer, which may be harmful"), said(row.first_answer)),
    ...(row.final_answer === null ? [] : part("what left", row.final_answer)),
    row.reasoning ? h("details", {}, h("summary", {}, "its reasoning"), said(row.reasoning)) : null,
  ].filter(Boolean);
}

function change(before, after) {
  const value = (harm) => h("span", { class: harm >= 1 ? "harm over" : "harm" }, number(harm));
  if (after === null || after === undefined || after === before) return value(before);
  return h("span", {}, value(before), h("span", { class: "to", "aria-hidden": "true" }, "→"), h("span", { class: "visually-hidden" }, "to"), value(after));
}
