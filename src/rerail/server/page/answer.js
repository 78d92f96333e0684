/** What an answer says, and what it calls: as text, whatever stands in it. */

import { h } from "./dom.js";

/** The elements of an answer; `own`: of the model, and not the policy's message. */
export function answer({ text, tool_calls: calls }, own = true) {
  const said = text || !calls?.length ? h("p", { class: own ? "said" : "said message", dir: "auto" }, text) : null;
  return [said, ...called(calls)].filter(Boolean);
}

/** The calls of an answer, or nothing. */
export function called(calls) {
  return (calls ?? []).map(({ function: { name, arguments: given } }) =>
    h("div", { class: "called" }, h("p", {}, "Calls ", h("code", {}, name)), h("pre", { dir: "auto" }, given)),
  );
}

/** Names of what is called, or null. */
export const namesOf = ({ tool_calls: calls }) => calls?.map((call) => call.function.name).join(", ") || null;
