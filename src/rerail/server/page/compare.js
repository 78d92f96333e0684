/** The model's first answer and what was given instead, side by side. */

import { answer } from "./answer.js";
import { h } from "./dom.js";
import { number, plural } from "./format.js";
import { chosen, nameOf, reasonOf, stateOf } from "./run.js";
import { symbol } from "./symbols.js";

/** Both sides of a run that is over, or nothing where the first answer itself was given. */
export function comparison(run) {
  const first = run?.evaluations[0];
  if (!first || !run.response || run.response.left === 0 || run.response.outcome === "error") return [];
  const left = chosen(run);
  return [
    side("Before", first, h("p", { class: "withheld" }, `${plural(first.tokens, "token")}, withheld: text that is not acceptable stays in the server.`)),
    side("After", left, ...answer(run.response, left !== null)),
  ];
}

function side(title, evaluation, ...parts) {
  const facts = evaluation
    ? [symbol(stateOf(evaluation)), `${nameOf(evaluation.index)}, ${reasonOf(evaluation)}`, evaluation.harm === null ? "" : `, harm ${number(evaluation.harm)}`]
    : ["the policy\u2019s message"];
  return h("div", { class: "side" }, h("h3", {}, title), ...parts, h("p", { class: "meta" }, facts));
}
