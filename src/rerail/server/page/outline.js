/** Where the keys of a policy's text stand, read from its indents: for marks and for suggestions. */

const DASHES = /^\s*(?:-(?: +|$))*/;
const DASH = /-(?: +|$)/g;
const KEY = /^(["']?)([^\s"'#][^"'#]*?)\1\s*:(?=\s|$)/;

/** [{path, line, from, to}] of each key and each item of a list; lines and columns from 0. */
export function outline(lines) {
  const found = [];
  const open = []; // keys and items around the line, the outermost first: {at, name, items}
  const enter = (line, at, name, to) => {
    open.push({ at, name, items: 0 });
    found.push({ path: open.map((one) => String(one.name)), line, from: at, to });
  };
  const leave = (at, isItem) => {
    // The items of a list may stand as far left as its key.
    while (open.length > 0) {
      const last = open.at(-1);
      if (last.at < at || (isItem && last.at === at && typeof last.name === "string")) return;
      open.pop();
    }
  };
  lines.forEach((line, i) => {
    const text = line.trimEnd();
    const [dashes] = DASHES.exec(text);
    for (const { index } of dashes.matchAll(DASH)) {
      const list = (leave(index, true), open.at(-1));
      enter(i, index, list ? list.items++ : 0, text.length);
    }
    const key = KEY.exec(text.slice(dashes.length));
    if (!key) return;
    leave(dashes.length, false);
    enter(i, dashes.length, key[2], dashes.length + key[0].length - 1);
  });
  return found;
}

const isAt = (path) => (one) => one.path.join("\n") === path.join("\n");

/** Where what the server says of a text belongs: [{line, from, to, message}]; no place, no entry. */
export function places(said, lines) {
  const fault = /, line (\d+), column (\d+): (.*)/s.exec(said);
  if (fault) {
    const line = Math.min(Number(fault[1]), lines.length) - 1;
    const before = [...lines[line]].slice(0, Number(fault[2]) - 1); // it counts characters
    return [{ line, from: before.join("").length, to: lines[line].length, message: fault[3] }];
  }
  const keys = outline(lines);
  return [...said.matchAll(/^ +([^:\s]+): (.*)/gm)].flatMap(([, where, message]) => {
    const path = where === "policy" ? [] : where.split(".");
    const unknown = /^unknown key '([^']+)'/.exec(message);
    if (unknown) path.push(unknown[1]);
    for (; path.length > 0; path.pop()) {
      const key = keys.find(isAt(path));
      if (key) return [{ ...key, message }];
    }
    return [];
  });
}

/**
 * What may stand where a text is being written: {from, options}, or null.
 *
 * @param lines up to the cursor.
 * @param schema the JSON Schema of policies.
 */
export function suggestions(lines, schema) {
  const [, before, colon, word] = /^(?!\s*#)(.*?(?<=^\s*(?:- +)*|(:\s+)))([\w/-]*)$/.exec(lines.at(-1)) ?? [];
  if (before === undefined) return null;
  const completed = outline([...lines.slice(0, -1), colon ? before : `${before}x:`]);
  const path = completed.at(-1)?.path ?? [];
  if (!colon) path.pop();
  const forms = inside(schema, path, schema.$defs);
  const isThere = (name) => completed.some(isAt([...path, name]));
  const options = [
    ...(colon ? [] : forms.flatMap((form) => keysOf(form, schema.$defs)).filter((key) => !isThere(key.label))),
    ...(colon || before.endsWith("- ") ? forms.flatMap(valuesOf) : []),
  ];
  return options.length > 0 ? { from: before.length, options } : null;
}

/** The schemas of what stands at a path; alternatives are several. */
function inside(schema, [step, ...rest], named) {
  return alternatives(schema, named).flatMap((form) => {
    if (step === undefined) return [form];
    const next = (/^\d+$/.test(step) && form.items) || (form.properties?.[step] ?? form.additionalProperties);
    return next instanceof Object ? inside(next, rest, named) : [];
  });
}

function alternatives({ $ref: reference, anyOf = [], ...form }, named) {
  const other = reference ? alternatives(named[reference.split("/").at(-1)], named) : [];
  return [form, ...other, ...anyOf.flatMap((one) => alternatives(one, named))];
}

function keysOf({ properties = {}, propertyNames = {} }, named) {
  const names = alternatives(propertyNames, named).flatMap((form) => form.enum ?? []);
  return [...Object.entries(properties), ...names.map((name) => [name, {}])].map(([label, form]) => ({
    label,
    apply: `${label}: `,
    info: form.description,
  }));
}

const valuesOf = ({ type, enum: names = type === "boolean" ? ["true", "false"] : [] }) =>
  names.map((label) => ({ label }));
