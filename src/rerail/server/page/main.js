/** Starts the page: which view is shown, and what the server says of itself. */

import { api, keys } from "./api.js";
import { byId } from "./dom.js";
import { Interventions } from "./interventions.js";
import { Policies } from "./policies.js";
import { askForKeys, nameTheme, nextTheme, shortcuts } from "./shell.js";
import { explainDocument } from "./terms.js";
import { Watch } from "./watch.js";

const VIEWS = ["watch", "policies", "interventions"];

let config = { models: [], policies: [], default_policy: "", auth_required: false, admin: true };

const watch = new Watch({ onNeedsKey: needsKey, onNeedsModels: configure });
const policies = new Policies({ onNeedsKey: needsKey, onChange: configure });
const interventions = new Interventions({ onNeedsKey: needsKey });

async function needsKey(error, admin) {
  byId("open-keys").hidden = false;
  if (await askForKeys(error.message, admin)) {
    await configure();
    if (admin) show();
  }
}

/** Ask the server what it serves, and hand that on. */
async function configure() {
  const notice = byId("offline");
  try {
    config = await api.config();
    notice.hidden = true;
  } catch (error) {
    notice.hidden = false;
    notice.textContent = error.message;
    if (error.wantsKey) await needsKey(error, false);
    return;
  }
  byId("open-keys").hidden = !config.auth_required;
  for (const view of [watch, policies, interventions]) view.configure(config);
}

/** Show the view that the address names. */
function show() {
  const [, name, detail = ""] = location.hash.split("/");
  const view = VIEWS.includes(name) ? name : "watch";
  for (const id of VIEWS) {
    byId(id).hidden = id !== view;
    const link = document.querySelector(`[data-view="${id}"]`);
    if (id === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.charAt(0).toUpperCase()}${view.slice(1)} · rerail`;
  if (view !== "interventions") interventions.hide();
  if (view === "watch") return;
  if (!config.admin) {
    byId("offline").hidden = false;
    byId("offline").textContent = "Policies and records are not served on this address.";
    return;
  }
  if (view === "policies") policies.show(decodeURIComponent(detail));
  else interventions.show();
}

const shown = () => document.querySelector(".view:not([hidden])").id;
let afterwards = null;

/** To a view, and then do something there. */
function go(view, then = null) {
  if (shown() === view) {
    then?.();
    return;
  }
  afterwards = then;
  location.hash = `#/${view}`;
}

window.addEventListener("hashchange", () => {
  const before = shown();
  show();
  if (before !== shown()) byId(`${shown()}-title`).focus();
  afterwards?.();
  afterwards = null;
});
document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-close]");
  button?.closest("dialog").close(button.dataset.close);
});
byId("toggle-theme").addEventListener("click", nextTheme);
byId("open-help").addEventListener("click", () => byId("help").showModal());
byId("open-keys").addEventListener("click", async () => {
  if (await askForKeys("Keys that this page sends.")) {
    await configure();
    show();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
shortcuts(
  {
    1: () => go("watch"),
    2: () => go("policies"),
    3: () => go("interventions"),
    "/": () => go("watch", () => watch.focus()),
    t: nextTheme,
    "?": () => byId("help").showModal(),
  },
  {
    s: () => byId("policies").hidden || policies.save(),
    escape: () => watch.cancel(),
  },
);

nameTheme();
explainDocument();
await configure();
show();
if (config.auth_required && !keys.get()) {
  if (await askForKeys("This server asks for a key.")) await configure().then(show);
}
