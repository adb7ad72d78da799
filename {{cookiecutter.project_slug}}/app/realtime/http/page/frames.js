// Raw frames: one line for each, which opens to show the whole frame.
import { element } from "./element.js";
import { coloured, indented } from "./json.js";
import { beginning, clock, record } from "./log.js";

const FOLDED = 500; // characters
const MAX_PINGS = 20; // pings and pongs

/** Return a function that shows a frame, given its direction, its type and its text. */
export function framesIn(log, filter) {
  const texts = new WeakMap(); // of the frames, by their line
  const hide = (line) => { line.hidden = !texts.get(line).includes(filter.value); };
  filter.oninput = () => [...log.children].forEach(hide);
  return (direction, type, text) => {
    const line = element("details", { className: direction },
      element("summary", {}, clock(), element("b", {}, direction === "in" ? "← in" : "→ out"),
        element("mark", {}, type), element("code", {}, coloured(beginning(text, FOLDED)))));
    const unfold = () => line.append(element("pre", {}, coloured(indented(text))));
    line.addEventListener("toggle", unfold, { once: true });
    line.dataset.type = type;
    texts.set(line, text);
    hide(line);
    record(log, line);
    const pings = log.querySelectorAll('[data-type="ping"], [data-type="pong"]');
    if (pings.length > MAX_PINGS) pings[0].remove();
  };
}
