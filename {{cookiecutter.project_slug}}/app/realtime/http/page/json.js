// Readable JSON: in lines and in colours. No token is changed.
import { element } from "./element.js";

const TOKEN = /("(?:\\.|[^"\\])*"?|[\w.+-]+)/;
const MARK = /"(?:\\.|[^"\\])*"|\{\s*\}|\[\s*\]|[{}[\],:]|\s+/g;
const MAX_TOKENS = 2_000; // in colour, since each is an element
const MAX_DEPTH = 50;

/** Return a JSON text in parts: names, strings and other values have their class. */
export function coloured(text) {
  const parts = text.split(TOKEN); // every other one is a token
  const end = 2 * MAX_TOKENS;
  const kind = (at) => {
    if (!parts[at].startsWith('"')) return "value";
    return parts[at + 1].trimStart().startsWith(":") ? "name" : "string";
  };
  const inColour = parts.slice(0, end).map((part, at) =>
    at % 2 ? element("span", { className: kind(at) }, part) : part);
  return [...inColour, parts.slice(end).join("")];
}

/** Return the numbers in a JSON text, as they are written. */
export const numbersIn = (text) =>
  text.split(TOKEN).filter((part, at) => at % 2 && /^[-\d]/.test(part));

/** Return a JSON text with a line for each member and item. */
export function indented(text) {
  let depth = 0;
  const line = (deeper) => {
    depth += deeper;
    return `\n${"  ".repeat(Math.min(depth, MAX_DEPTH))}`;
  };
  return text.replace(MARK, (mark) => {
    if (mark === "{" || mark === "[") return mark + line(1);
    if (mark === "}" || mark === "]") return line(-1) + mark;
    if (mark === ",") return mark + line(0);
    if (mark === ":") return ": ";
    return mark.trim(); // a text, nothing between brackets, or space between tokens
  });
}
