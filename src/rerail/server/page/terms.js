/** Words that need one carry their explanation; the glossary in the document has each of them once. */

import { byId, h } from "./dom.js";

const idOf = (term) => `term-${term.replaceAll(" ", "-")}`;

/** What the glossary says of a term, or null. */
export const meaning = (term) => byId(idOf(term))?.nextElementSibling.textContent ?? null;

/** A term's name, its explanation under the pointer. What is no term is plain text. */
export function explained(term, name = term) {
  const title = meaning(term.toLowerCase());
  return title ? h("span", { class: "term", title }, name) : name;
}

/** Explain the terms that stand in the document itself. */
export function explainDocument() {
  for (const node of document.querySelectorAll("[data-term]")) {
    node.classList.add("term");
    node.title = meaning(node.dataset.term);
  }
}
