/** What a plot cannot tell: the model was asked again, with words of the policy or fainter ones. */

import { h } from "./dom.js";
import { number } from "./format.js";
import { chosen, reasonOf, stateOf, worstCategory } from "./run.js";
import { symbol } from "./symbols.js";

/** Whether any answer came from moved embeddings. */
export const moved = (run) => run.evaluations.some(({ xy }) => xy.some((value) => value !== 0));

/** What happened beside a path through embedding space, or in its place; nothing while that is open. */
export function guided(run) {
  const of = (kind) => run?.evaluations.filter(({ origin }) => origin === kind) ?? [];
  const [told, faded] = [of("guidance"), of("fade")];
  const said = faded.length > 0 ? [h("p", {}, fading(run, faded))] : [];
  if (told.length > 0) return [...said, h("p", {}, ...opening(run, told)), table(run, told)];
  if (said.length > 0) return said;
  if (!run?.response || moved(run)) return [];
  return [h("p", { class: "empty" }, unmoved(run))];
}

function fading(run, faded) {
  const place = faded.indexOf(chosen(run)) + 1;
  const end = place > 0
    ? `The ${ordinal(place)} such answer was given.`
    : run.response ? "No answer to them was given." : "";
  return (
    "The model was asked again with the user's words fainter, beside guidance of the policy where " +
    `there is some: the first quarter of them gone, the first half, then all in part. ${end}`
  );
}

const ordinal = (place) => ["first", "second", "third", "fourth"][place - 1] ?? `${place}th`;

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
