// JSON in colours.
import { element } from "./element.js";

const TOKEN = /("(?:\\.|[^"\\])*"|[\w.+-]+)/;

/** Return a JSON text in parts: names, strings and other values have their class. */
export function coloured(text) {
  const parts = text.split(TOKEN); // every other one is a token
  const kind = (at) => {
    if (!parts[at].startsWith('"')) return "value";
    return parts[at + 1].startsWith(":") ? "name" : "string";
  };
  return parts.map((part, at) => at % 2 ? element("span", { className: kind(at) }, part) : part);
}
