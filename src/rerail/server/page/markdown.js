/**
 * Answers as models write them, in Markdown. Their text is read into tokens, and the tokens are
 * made elements here: HTML in an answer is never read as HTML, but shown as the text that it is, and
 * so are pictures, which would be fetched from elsewhere, and links that lead to no page.
 */

import { h } from "./dom.js";
import { Marked } from "./vendor/marked.esm.js";

const reader = new Marked({ gfm: true, breaks: true });
const LINKS = ["http:", "https:", "mailto:"];

/** The nodes of a text; the text itself where it cannot be read. */
export function markdown(text) {
  try {
    return blocks(reader.lexer(text));
  } catch {
    return [h("p", {}, text)];
  }
}

const blocks = (tokens) => tokens.map(block);

function block(token) {
  switch (token.type) {
    case "space":
      return null;
    case "hr":
      return h("hr");
    case "heading":
      return h(`h${Math.min(token.depth + 2, 6)}`, {}, inlines(token.tokens));
    case "paragraph":
      return h("p", {}, inlines(token.tokens));
    case "text":
      return h("span", {}, token.tokens ? inlines(token.tokens) : token.text);
    case "code":
      return h("pre", { tabindex: "0" }, h("code", {}, token.text));
    case "blockquote":
      return h("blockquote", {}, blocks(token.tokens));
    case "list":
      return list(token);
    case "checkbox":
      return token.checked ? "☑ " : "☐ ";
    case "table":
      return table(token);
    default:
      return h("p", {}, token.raw.trimEnd());
  }
}

function list({ ordered, start, items }) {
  const from = ordered && start !== 1 ? String(start) : null;
  return h(ordered ? "ol" : "ul", { start: from }, items.map((item) => h("li", {}, blocks(item.tokens))));
}

function table({ header, rows }) {
  const cell = (name, attributes) => (of) =>
    h(name, { ...attributes, class: of.align === "right" ? "number" : null }, inlines(of.tokens));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the answer" },
    h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, header.map(cell("th", { scope: "col" })))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell("td", {}))))),
    ),
  );
}

const inlines = (tokens) => tokens.map(inline);

function inline(token) {
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return h(token.type, {}, inlines(token.tokens));
    case "codespan":
      return h("code", {}, token.text);
    case "br":
      return "\n";
    case "escape":
      return token.text;
    case "link":
      return link(token);
    case "text":
      return token.tokens ? h("span", {}, inlines(token.tokens)) : token.text;
    default:
      return token.raw;
  }
}

/** A link says where it leads, and opens a tab that knows nothing of this one. */
function link({ href, raw, tokens }) {
  if (!URL.canParse(href) || !LINKS.includes(new URL(href).protocol)) return raw;
  const attributes = { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return h("a", attributes, inlines(tokens));
}
