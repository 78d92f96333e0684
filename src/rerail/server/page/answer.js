/** What an answer says, and what it calls: as text, whatever stands in it. */

import { h } from "./dom.js";
import { markdown } from "./markdown.js";

/** The elements of an answer; `own`: of the model, and not the policy's message. */
export function answer({ text, tool_calls: calls }, own = true) {
  return [...(text || !calls?.length ? [said(text, own)] : []), ...called(calls)];
}

function said(text, own) {
  return own
    ? h("div", { class: "said markdown", dir: "auto" }, markdown(text))
    : h("p", { class: "said message", dir: "auto" }, text);
}

/** The calls of an answer, or nothing. */
export function called(calls) {
  return (calls ?? []).map(({ function: { name, arguments: given } }) =>
    h("div", { class: "called" }, h("p", {}, "Calls ", h("code", {}, name)), h("pre", { dir: "auto" }, given)),
  );
}

/** Names of what is called, or null. */
export const namesOf = ({ tool_calls: calls }) => calls?.map((call) => call.function.name).join(", ") || null;
