/** Colours for YAML in the editor: line by line, for reading only. The server alone judges it. */

import { h } from "./dom.js";

const LINE = /^(\s*(?:- )*)(?:([\w./"'-]+)(:)(?=\s|$))?(.*)$/s;
const NUMBER = /^\s*[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?\s*$/i;
const WORD = /^\s*(true|false|null|yes|no|~)\s*$/i;

/** Where a comment begins: at a # after white space, outside of quotes. */
function commentAt(text) {
  let quote = null;
  for (let i = 0; i < text.length; i += 1) {
    const c = text[i];
    if (quote) {
      if (c === quote) quote = null;
    } else if ((c === '"' || c === "'") && /(^|[\s[{,:])$/.test(text.slice(0, i))) quote = c;
    else if (c === "#" && (i === 0 || /\s/.test(text[i - 1]))) return i;
  }
  return text.length;
}

function colourLine(line) {
  const end = commentAt(line);
  const [, indent, key, colon, value] = LINE.exec(line.slice(0, end));
  const kind = NUMBER.test(value) || WORD.test(value) ? "yaml-literal" : "yaml-text";
  return [
    indent,
    key ? h("span", { class: "yaml-key" }, key) : "",
    colon ?? "",
    value ? h("span", { class: kind }, value) : "",
    end < line.length ? h("span", { class: "yaml-comment" }, line.slice(end)) : "",
    "\n",
  ];
}

export const colourYaml = (text) => text.split("\n").flatMap(colourLine);
