/** What surrounds the views: theme, keys, shortcuts. */

import { keys } from "./api.js";
import { announce, ask, byId } from "./dom.js";

const THEMES = ["system", "light", "dark"];

/** A storage of the browser, or nothing where it keeps none or is full. */
const kept = (storage) => ({
  get(name) {
    try {
      return storage().getItem(name);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      storage().setItem(name, value);
    } catch {
      // Then it lasts as long as the page.
    }
  },
});

const memory = kept(() => localStorage);

/** What is forgotten when the tab closes. */
export const tab = kept(() => sessionStorage);

export function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  const theme = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  memory.set("rerail.theme", theme);
  nameTheme();
  announce(`Theme: ${theme}`);
}

export function nameTheme() {
  const theme = document.documentElement.dataset.theme ?? "system";
  byId("toggle-theme").setAttribute("aria-label", `Theme: ${theme}`);
  byId("toggle-theme").title = `Theme: ${theme} (t)`;
}

/** Ask for keys; true if any were given or forgotten. */
export async function askForKeys(why, admin = false) {
  const dialog = byId("keys");
  if (dialog.open) return false;
  byId("keys-why").textContent = `${why} Keys stay in this tab and are forgotten when it closes.`;
  byId("api-key").value = keys.get();
  byId("admin-key").value = keys.get(true);
  const answer = ask(dialog);
  byId(admin ? "admin-key" : "api-key").focus();
  const choice = await answer;
  if (choice === "use") {
    keys.set(byId("api-key").value.trim());
    keys.set(byId("admin-key").value.trim(), true);
  } else if (choice === "forget") {
    keys.set("");
    keys.set("", true);
  }
  byId("api-key").value = "";
  byId("admin-key").value = "";
  return choice === "use" || choice === "forget";
}

/** Keys of one letter act where nothing is being typed, unless they are switched off. */
export function shortcuts(singles, chords) {
  const box = byId("single-keys");
  box.checked = memory.get("rerail.single-keys") !== "off";
  box.addEventListener("change", () => memory.set("rerail.single-keys", box.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog[open], :popover-open")) return;
    if (event.ctrlKey || event.metaKey) {
      if (chords[key.toLowerCase()]) {
        event.preventDefault();
        chords[key.toLowerCase()]();
      }
      return;
    }
    if (key === "Escape") chords.escape();
    const typing = target.matches("input, textarea, select, [contenteditable]");
    if (typing || !box.checked || !singles[key]) return;
    event.preventDefault();
    singles[key]();
  });
}
