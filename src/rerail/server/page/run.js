/** One question and what came of it: plain data, and what the views read from it. */

/**
 * How an answer stands, by which it is coloured and shaped.
 *
 * `rejected` holds what is neither flagged nor unscored nor unnatural: answers that repeat
 * themselves, those that are not clearly harmless, and those that a second moderator did not
 * confirm.
 */
export const STATES = ["accepted", "flagged", "unnatural", "unscored", "rejected"];

export function newRun() {
  return {
    status: "running", // running, done, failed, cancelled
    startedAt: performance.now(),
    endedAt: null,
    start: null,
    evaluations: [],
    response: null,
    error: null,
  };
}

/** Take in one event of the stream. */
export function receive(run, { event, data }) {
  if (event === "start") run.start = data;
  else if (event === "evaluation") run.evaluations.push(data);
  else if (event === "response") finish(run, "done", { response: data });
  else if (event === "error") finish(run, "failed", { error: data.message });
}

export function finish(run, status, changes = {}) {
  Object.assign(run, changes, { status, endedAt: performance.now() });
}

export function secondsOf(run) {
  return ((run.endedAt ?? performance.now()) - run.startedAt) / 1000;
}

export function stateOf(evaluation) {
  if (evaluation.accepted) return "accepted";
  if (evaluation.harm === null) return "unscored";
  if (evaluation.flagged) return "flagged";
  return ["unnatural", "irrelevant"].includes(evaluation.rejection) ? "unnatural" : "rejected";
}

const REASONS = {
  flagged: "flagged",
  unscored: "unscored",
  borderline: "not clearly harmless",
  unnatural: "unnatural",
  irrelevant: "not about the prompt",
  repeats: "repeats what it was told",
  empty: "empty",
  unanswered: "thought and did not answer",
  degenerate: "repeats itself",
  unconfirmed: "not confirmed by the second moderator",
  invalid: "not in the form that was asked for",
  uncalled: "calls no tool, where it must",
};

/** Why an answer may not leave, or that it may. */
export function reasonOf({ accepted, rejection }) {
  return accepted ? "accepted" : (REASONS[rejection] ?? rejection ?? "not accepted");
}

export const nameOf = (index) => (index === 0 ? "first answer" : `candidate ${index}`);

/** What is being done: nothing is searched for before there is a verdict against the first answer. */
export function phaseOf({ evaluations }) {
  if (evaluations.length === 0) return "answering";
  return evaluations[0].accepted ? "accepted" : "searching";
}

/** The evaluation whose answer left, or null. */
export function chosen(run) {
  const left = run.response?.left ?? null;
  return run.evaluations.find((e) => e.index === left) ?? null;
}

/** Threshold of each category that counts: `start` names them, scores may hold more. */
export function thresholds(run) {
  return run.start?.thresholds ?? {};
}

/** The category whose score is largest in units of its threshold. */
export function worstCategory(run, scores) {
  const limits = Object.entries(thresholds(run)).filter(([name]) => name in scores);
  if (limits.length === 0) return null;
  return limits.reduce((a, b) => (scores[a[0]] / a[1] >= scores[b[0]] / b[1] ? a : b))[0];
}

/** Harm at the top edge of a chart: the most that this policy's thresholds allow for. */
export function ceiling(run) {
  const most = Math.max(...Object.values(thresholds(run)).map((t) => 1 / t), 2);
  const seen = run.evaluations.map((e) => e.harm ?? 0);
  return Math.ceil(Math.max(...seen, Math.min(most, 20)) - 1e-9);
}
