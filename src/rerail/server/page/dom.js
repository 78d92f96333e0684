/**
 * Elements without markup. Every text goes in as text: what a model or a client wrote is never
 * read as HTML. Nothing in this folder uses innerHTML, and a test holds it to that.
 */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; attributes named `on...` are listeners, null and false leave one out. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Say something to people who listen instead of looking. */
export function announce(text) {
  const region = byId("announcer");
  // The same words twice would not be read a second time.
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

/** Draw anew what is within; the focus stays with what has the same `data-id`. */
export function redraw(place, ...children) {
  const { activeElement: focused } = document;
  const id = place.contains(focused) ? focused.dataset.id : undefined;
  place.replaceChildren(...children);
  if (id !== undefined) place.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
}

/** Run a function at most once per frame, with the arguments of its last call. */
export function oncePerFrame(run) {
  let last = null;
  return (...given) => {
    const waiting = last !== null;
    last = given;
    if (waiting) return;
    requestAnimationFrame(() => {
      const arguments_ = last;
      last = null;
      run(...arguments_);
    });
  };
}

/** Show a modal dialog; resolves to the value of the button that closed it, "" for Escape. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      // The event comes late: one of an earlier showing may arrive in this one.
      if (dialog.open) return;
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue);
    };
    dialog.addEventListener("close", closed);
  });
}
