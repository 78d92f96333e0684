/** The editor of policies: CodeMirror, with the server's faults as marks and its schema as help. */

import { places, suggestions } from "./outline.js";
import {
  EditorState,
  EditorView,
  HighlightStyle,
  StyleModule,
  autocompletion,
  completionKeymap,
  defaultKeymap,
  highlightSelectionMatches,
  highlightSpecialChars,
  history,
  historyKeymap,
  indentOnInput,
  keymap,
  lineNumbers,
  lintGutter,
  lintKeymap,
  search,
  searchKeymap,
  setDiagnostics,
  syntaxHighlighting,
  tags,
  yamlLanguage,
} from "./vendor/codemirror.esm.js";

// The server's rules admit no <style> in the page; sheets that a script adopts need none.
const sheet = new CSSStyleSheet();
StyleModule.mount = (root, modules) => {
  sheet.replaceSync(modules.map((module) => module.getRules()).join("\n"));
  if (!root.adoptedStyleSheets.includes(sheet)) root.adoptedStyleSheets.push(sheet);
};

const COLOURS = HighlightStyle.define([
  { tag: tags.propertyName, color: "var(--accent)" },
  { tag: tags.string, color: "var(--accepted)" },
  { tag: [tags.keyword, tags.labelName, tags.typeName, tags.meta], color: "var(--unnatural)" },
  { tag: [tags.punctuation, tags.separator, tags.bracket], color: "var(--ink-2)" },
  { tag: tags.comment, color: "var(--ink-2)", fontStyle: "italic" },
]);

const TINT = "color-mix(in srgb, var(--accent) 24%, transparent)";

const LOOK = EditorView.theme({
  "&": { flex: 1, minWidth: 0, color: "var(--ink)" },
  "&.cm-focused": { outline: "none" }, // the frame around it shows the focus
  ".cm-scroller": { font: "0.84375rem/1.62 var(--mono)" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--ink)" },
  ".cm-content ::selection, .cm-selectionMatch, .cm-searchMatch": { backgroundColor: TINT },
  ".cm-searchMatch-selected": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-searchMatch-selected span": { color: "inherit" },
  ".cm-specialChar": { color: "var(--flagged)" },
  ".cm-gutters": { border: 0, backgroundColor: "var(--sunken)", color: "var(--ink-2)" },
  ".cm-tooltip": {
    border: "1px solid var(--line-2)",
    borderRadius: "8px",
    backgroundColor: "var(--surface)",
    color: "var(--ink)",
    fontSize: "var(--small)",
  },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { font: "0.84375rem/1.5 var(--mono)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": {
    background: "var(--accent)",
    color: "var(--on-accent)",
  },
  ".cm-diagnostic": { paddingRight: "10px" },
  ".cm-diagnostic-error": { borderLeftColor: "var(--flagged)" },
  // In place of pictures, which the server's rules do not admit.
  ".cm-lint-marker-error": {
    content: "normal",
    backgroundColor: "var(--flagged)",
    clipPath: "polygon(50% 8%, 96% 92%, 4% 92%)",
  },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--flagged) 1px" },
});

/** The search's panel; its buttons and fields are the page's. */
const PANEL = EditorView.theme({
  ".cm-panels": { borderColor: "var(--line)", backgroundColor: "var(--surface)", color: "var(--ink)" },
  ".cm-panel.cm-search": { padding: "8px 34px 8px 10px" },
  ".cm-panel.cm-search [name=close]": { top: "6px", right: "8px", fontSize: "1.25rem" },
  ".cm-panel.cm-search label": { fontSize: "var(--small)" },
  ".cm-button, .cm-button:active": {
    padding: "0 10px",
    border: "1px solid var(--line-2)",
    borderRadius: "7px",
    backgroundImage: "none",
    fontSize: "var(--small)",
  },
  "input.cm-textfield": {
    display: "inline-block",
    width: "auto",
    border: "1px solid var(--line-2)",
    backgroundColor: "var(--surface)",
    fontSize: "var(--small)",
  },
});

/** Enter after a key goes on below it, two columns to the right; elsewhere it keeps the indent. */
const BELOW = {
  key: "Enter",
  run({ state, dispatch }) {
    const { head, empty } = state.selection.main;
    const line = state.doc.lineAt(head);
    const before = line.text.slice(0, head - line.from);
    if (!empty || !/^[^#]*:\s*$/.test(before)) return false;
    const indent = " ".repeat(/^\s*(?:- +)*/.exec(before)[0].length + 2);
    dispatch(state.update(state.replaceSelection(state.lineBreak + indent), { scrollIntoView: true, userEvent: "input" }));
    return true;
  },
};

/**
 * Chromium would keep the looks of what is typed over in a style attribute, which the server's rules
 * do not admit.
 */
const TYPED_OVER = EditorView.domEventHandlers({
  beforeinput({ inputType, isComposing, data }, view) {
    if (inputType !== "insertText" || isComposing || view.state.selection.main.empty) return false;
    view.dispatch(view.state.replaceSelection(data), { userEvent: "input.type", scrollIntoView: true });
    return true;
  },
});

/** Line ends as the text has them; null where it mixes them. */
function lineEnd(text) {
  const ends = new Set(text.match(/\r\n?|\n/g));
  return ends.size > 1 ? null : ([...ends][0] ?? "\n");
}

export class Editor {
  #view;
  #end = "\n";
  #extensions;
  #schema = null;

  /**
   * @param place what it fills.
   * @param field attributes of the field within.
   * @param changed called when something was typed.
   */
  constructor(place, field, changed) {
    this.#extensions = [
      EditorState.tabSize.of(2),
      EditorView.contentAttributes.of(field),
      EditorView.updateListener.of(({ docChanged }) => docChanged && changed()),
      LOOK,
      PANEL,
      TYPED_OVER,
      autocompletion({ override: [(context) => this.#suggest(context)], icons: false, selectOnOpen: false }),
      highlightSelectionMatches(),
      highlightSpecialChars(),
      history(),
      indentOnInput(),
      // Tab stays what it is elsewhere: the way out.
      keymap.of([BELOW, ...completionKeymap, ...defaultKeymap, ...historyKeymap, ...lintKeymap, ...searchKeymap]),
      lineNumbers(),
      lintGutter(),
      search(),
      syntaxHighlighting(COLOURS),
      yamlLanguage,
    ];
    this.#view = new EditorView({ parent: place, extensions: this.#extensions });
  }

  /** The text, with the line ends that it came with. */
  get text() {
    return this.#view.state.doc.sliceString(0, undefined, this.#end ?? "\n");
  }

  /** Show another text: what was done to the one before cannot be undone in it. */
  set text(text) {
    this.#end = lineEnd(text);
    // Where line ends are mixed, each CR is a character of its line, and stays.
    const mixed = this.#end === null ? EditorState.lineSeparator.of("\n") : [];
    this.#view.setState(EditorState.create({ doc: text, extensions: [this.#extensions, mixed] }));
  }

  /** Suggest what a JSON Schema has. */
  set schema(schema) {
    this.#schema = schema;
  }

  /** Mark what the server says of the text; "" where it has no fault. */
  mark(said) {
    const { doc } = this.#view.state;
    const lines = said ? doc.toString().split("\n") : [];
    const marks = places(said, lines).map(({ line, from, to, message }) => {
      const start = doc.line(line + 1).from;
      return { from: start + from, to: start + to, severity: "error", message };
    });
    this.#view.dispatch(setDiagnostics(this.#view.state, marks));
  }

  focus() {
    this.#view.focus();
  }

  #suggest({ state, pos, explicit }) {
    if (!this.#schema) return null;
    const line = state.doc.lineAt(pos);
    const found = suggestions(state.sliceDoc(0, pos).split("\n"), this.#schema);
    if (!found || (!explicit && line.from + found.from === pos)) return null;
    return { ...found, from: line.from + found.from, validFor: /^[\w/-]*$/ };
  }
}
