/**
 * Server-sent events from a fetch body. EventSource cannot POST, nor send a key.
 *
 * After the HTML standard, "Parsing an event stream": fields `event` and `data`, comments ignored,
 * an event ends at an empty line, and one that the stream's end cuts off is dropped.
 */

/** Split a stream of text chunks into {event, data} objects. */
export class EventParser {
  #rest = "";
  #event = "";
  #data = [];

  /** The events that a chunk completes. */
  *push(chunk) {
    this.#rest += chunk;
    // A chunk may end between CR and LF: a CR at the end waits for what follows.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) {
          yield { event: this.#event || "message", data: this.#data.join("\n") };
        }
        this.#event = "";
        this.#data = [];
      } else if (!line.startsWith(":")) {
        this.#field(line);
      }
    }
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
  }
}

/** The events of a response's body, their data read as JSON. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      for (const { event, data } of parser.push(value)) yield { event, data: JSON.parse(data) };
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
