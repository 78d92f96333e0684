/** Edit policies while the server runs: checked while typing, saved at once, rolled back. */

import { api } from "./api.js";
import { diffView } from "./diff.js";
import { announce, ask, byId, h, redraw } from "./dom.js";
import { ago, moment } from "./format.js";

const QUIET = 300; // milliseconds without a key before the text is checked

export class Policies {
  #names = []; // {name, version, audit, yaml}
  #open = null; // {name, version, yaml, history}; version null for one that is not saved yet
  #drafts = new Map();
  #editor = null;
  #loading = null; // the editor, which is fetched with the first policy
  #invalid = false; // what the server said of the text when it was last asked
  #typing = null;
  #checking = null;
  #needsKey;
  #changed;
  #default;

  constructor({ onNeedsKey, onChange }) {
    this.#needsKey = onNeedsKey;
    this.#changed = onChange;
    byId("save").addEventListener("click", () => this.save());
    byId("revert").addEventListener("click", () => this.#revert());
    byId("new-policy").addEventListener("click", () => this.#create());
    byId("show-text").addEventListener("click", () => this.#face("text"));
    byId("show-diff").addEventListener("click", () => this.#face("diff"));
    window.addEventListener("beforeunload", (event) => {
      if (this.#drafts.size > 0) event.preventDefault();
    });
  }

  configure({ default_policy: name }) {
    this.#default = name;
  }

  /** Show the list, and one policy of it. */
  async show(name) {
    await this.#guarded(async () => {
      this.#editor = await (this.#loading ??= this.#edit());
      await this.#list();
      const wanted = name || this.#open?.name || this.#default || this.#names[0]?.name;
      if (wanted) await this.#load(wanted);
    });
  }

  async #edit() {
    const { Editor } = await import("./editor.js");
    const field = { id: "yaml", "aria-label": "Policy as YAML", "aria-describedby": "faults" };
    const editor = new Editor(byId("editor"), field, () => this.#typed());
    api.schema().then((schema) => (editor.schema = schema), () => {}); // it is a help, no more
    return editor;
  }

  get #text() {
    return this.#editor.text;
  }

  get #dirty() {
    return this.#open !== null && this.#text !== this.#open.yaml;
  }

  async #list() {
    ({ policies: this.#names } = await api.policies());
    this.#paintList();
  }

  async #load(name) {
    if (this.#open?.name === name && this.#open.version === null) return;
    this.#open = await api.policy(name);
    this.#editor.text = this.#drafts.get(name) ?? this.#open.yaml;
    this.#invalid = false;
    this.#face("text");
    this.#paint();
    if (this.#dirty) await this.#check();
  }

  #typed() {
    const name = this.#open?.name;
    if (name === undefined) return;
    if (this.#dirty) this.#drafts.set(name, this.#text);
    else {
      this.#drafts.delete(name);
      this.#invalid = false;
    }
    this.#paint();
    clearTimeout(this.#typing);
    if (this.#dirty) this.#typing = setTimeout(() => this.#check(), QUIET);
  }

  async #check() {
    this.#checking?.abort();
    this.#checking = new AbortController();
    const { name } = this.#open;
    const text = this.#text;
    try {
      const { version } = await api.check(name, text, this.#checking.signal);
      if (text !== this.#text) return;
      this.#judged(false);
      this.#say("valid", `Valid. Saving makes it version ${version}.`);
    } catch (error) {
      if (error.name !== "AbortError" && text === this.#text) this.#refused(error);
    }
  }

  #refused(error) {
    if (![400, 413, 422].includes(error.status)) {
      this.#failed(error);
      return;
    }
    this.#judged(true);
    this.#say("invalid", error.message);
  }

  #judged(invalid) {
    this.#invalid = invalid;
    this.#buttons();
  }

  async save() {
    clearTimeout(this.#typing);
    if (this.#dirty && this.#invalid) await this.#check(); // it may have been mended since
    if (!this.#dirty || this.#invalid) return;
    this.#checking?.abort();
    const { name, version } = this.#open;
    const text = this.#text;
    byId("save").disabled = true;
    try {
      if (version !== null && (await this.#changedMeanwhile(name, version))) return;
      const saved = await api.save(name, text);
      this.#drafts.delete(name);
      await this.#reload(name, `Saved. Version ${saved.version} is in force for the next request.`);
    } catch (error) {
      this.#refused(error);
    } finally {
      this.#buttons();
      if (document.activeElement === document.body) this.#editor.focus(); // the button cannot be pressed any more
    }
  }

  async #changedMeanwhile(name, version) {
    const now = await api.policy(name);
    if (now.version === version) return false;
    this.#open = now;
    this.#paint();
    this.#say("invalid", `Somebody saved version ${now.version} since you opened ${version}. Look at the changes; saving again replaces theirs.`);
    return true;
  }

  async #reload(name, message) {
    this.#open = null;
    await this.#list();
    await this.#load(name);
    this.#say("valid", message);
    announce(message);
    this.#changed();
  }

  #revert() {
    if (!this.#open) return;
    this.#drafts.delete(this.#open.name);
    if (this.#open.version === null) {
      this.#open = null;
      this.show(this.#default);
      return;
    }
    this.#editor.text = this.#open.yaml;
    this.#invalid = false;
    this.#paint();
    this.#editor.focus();
  }

  async #create() {
    const field = byId("policy-name");
    field.value = "";
    if ((await ask(byId("naming"))) !== "create") return;
    const name = field.value;
    if (this.#names.some((policy) => policy.name === name)) {
      location.hash = `#/policies/${name}`;
      return;
    }
    const copy = this.#text.replace(/^name:.*$/m, `name: ${name}`);
    this.#open = { name, version: null, yaml: "", history: [] };
    this.#drafts.set(name, copy);
    this.#editor.text = copy;
    this.#face("text");
    this.#paint();
    this.#editor.focus();
    await this.#check();
  }

  async #version(entry) {
    const { name, version } = this.#open;
    byId("version-title").textContent = `${name} @ ${entry.version}`;
    byId("version-why").textContent = `Put in force ${moment(entry.at)} by ${entry.by}. Rolling back makes it current again for the next request; the history keeps both.`;
    const known = typeof entry.yaml === "string";
    byId("version-diff").hidden = !known;
    if (known) byId("version-diff").replaceChildren(...diffView(this.#open.yaml, entry.yaml));
    byId("rollback").hidden = entry.version === version;
    if ((await ask(byId("version"))) !== "rollback") return;
    await this.#guarded(async () => {
      const now = await api.rollback(name, entry.version);
      this.#drafts.delete(name);
      await this.#reload(name, `Rolled back. Version ${now.version ?? entry.version} is in force for the next request.`);
    });
  }

  async #guarded(work) {
    try {
      await work();
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    if (error.name === "AbortError") return;
    this.#say("invalid", error.message);
    if (error.wantsKey) this.#needsKey(error, true);
  }

  #face(face) {
    const diff = face === "diff";
    byId("show-text").setAttribute("aria-pressed", String(!diff));
    byId("show-diff").setAttribute("aria-pressed", String(diff));
    byId("editor").hidden = diff;
    byId("diff").hidden = !diff;
    if (diff && this.#open) byId("diff").replaceChildren(...diffView(this.#open.yaml, this.#text));
  }

  #paint() {
    this.#paintList();
    const { name, version } = this.#open;
    byId("editor-title").textContent = name;
    byId("editor-meta").textContent = version === null ? "not saved yet" : `version ${version}`;
    if (!this.#dirty) this.#say("", "Saved text. Changes are checked as you type and take effect when saved.");
    this.#paintHistory();
    this.#buttons();
  }

  #buttons() {
    byId("save").disabled = !this.#dirty || this.#invalid;
    byId("revert").disabled = !this.#dirty;
  }

  #paintList() {
    const unsaved = this.#open?.version === null ? [this.#open] : [];
    redraw(
      byId("policy-names"),
      ...[...this.#names, ...unsaved].map(({ name, version, audit }) =>
        h(
          "li",
          {},
          h(
            "a",
            { href: `#/policies/${encodeURIComponent(name)}`, "data-id": name, "aria-current": name === this.#open?.name ? "page" : null },
            h("span", { class: "policy-name" }, name),
            this.#drafts.has(name) ? h("span", { class: "draft", title: "Not saved" }, h("span", { class: "visually-hidden" }, "not saved")) : null,
            name === this.#default ? h("span", { class: "tag" }, "default") : null,
            audit ? h("span", { class: "tag" }, "audit") : null,
            h("code", {}, version ?? "new"),
          ),
        ),
      ),
    );
  }

  #paintHistory() {
    const { history, version } = this.#open;
    const newestFirst = [...history].sort((a, b) => new Date(b.at) - new Date(a.at));
    redraw(
      byId("history"),
      ...newestFirst.map((entry, i) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", class: "version", "data-id": entry.at, onclick: () => this.#version(entry) },
            h("span", { class: "visually-hidden" }, "version "),
            h("code", {}, entry.version),
            i === 0 && entry.version === version ? h("span", { class: "tag" }, "in force") : null,
            h("span", { class: "meta", title: moment(entry.at) }, `${ago(entry.at)} · ${entry.by}`),
          ),
        ),
      ),
    );
  }

  #say(kind, message) {
    const place = byId("faults");
    place.className = `faults ${kind}`;
    place.replaceChildren(...message.split("\n").map((line) => h("p", {}, line)));
    this.#editor?.mark(kind === "invalid" ? message : "");
  }
}
