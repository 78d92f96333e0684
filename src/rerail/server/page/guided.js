/** What is told in words where no point moved: the model was asked again, with words of the policy. */

import { h } from "./dom.js";
import { number } from "./format.js";
import { chosen, reasonOf, stateOf, worstCategory } from "./run.js";
import { symbol } from "./symbols.js";

/** Whether any answer came from moved embeddings. */
export const moved = (run) => run.evaluations.some(({ xy }) => xy.some((value) => value !== 0));

/** What happened in place of a path through embedding space; nothing while that is open. */
export function guided(run) {
  const told = run?.evaluations.filter(({ origin }) => origin === "guidance") ?? [];
  if (told.length > 0) return [h("p", {}, ...opening(run, told)), table(run, told)];
  if (!run?.response || moved(run)) return [];
  return [h("p", { class: "empty" }, unmoved(run))];
}

function opening(run, told) {
  const place = told.indexOf(chosen(run)) + 1;
  const { name } = run.response?.policy ?? run.start.policy;
  const policy = h("a", { href: `#/policies/${encodeURIComponent(name)}` }, name);
  const end = place > 0
    ? `The answer to text ${place} was given.`
    : run.response ? "No answer to them was given." : "";
  return [
    `${moved(run) ? "" : "Nothing was moved. "}The model was asked again with words of the policy `,
    policy,
    ` beside the prompt: its guidance, which those who ask do not see. ${end}`,
  ];
}

function unmoved({ response, evaluations }) {
  if (response.outcome === "passed") return "Nothing was moved: the first answer was given as it is.";
  if (evaluations.length === 0) return "Nothing was moved, and nothing generated.";
  return "Nothing was moved.";
}

function table(run, told) {
  const first = run.evaluations[0];
  const worst = worstCategory(run, first.scores);
  const left = chosen(run);
  const row = (name, evaluation) =>
    h(
      "tr",
      { class: evaluation === left ? "leaves" : null },
      h("th", { scope: "row" }, name),
      h("td", {}, symbol(stateOf(evaluation)), reasonOf(evaluation)),
      h("td", { class: "number" }, number(evaluation.harm)),
      worst ? h("td", { class: "number" }, number(evaluation.scores[worst])) : null,
    );
  const head = (name, kind) => h("th", { scope: "col", class: kind }, name);
  return h(
    "table",
    { class: "plain" },
    h("thead", {}, h("tr", {}, head("Asked with"), head("Answer"), head("Harm", "number"), worst ? head(worst, "number") : null)),
    h("tbody", {}, row("the prompt alone", first), told.map((e, i) => row(`text ${i + 1}`, e))),
  );
}
