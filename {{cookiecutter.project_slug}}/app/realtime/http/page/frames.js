// Raw frames: a line each, which unfolds.
import { clock, element, record } from "./element.js";
import { coloured } from "./json.js";

/** Return a function that shows a frame, given its direction and itself. */
export function framesIn(log, filter) {
  const hide = (line) => { line.hidden = !line.textContent.includes(filter.value); };
  filter.oninput = () => [...log.children].forEach(hide);
  return (direction, { type, ...rest }) => {
    const line = element("details", { className: direction },
      element("summary", {}, clock(), element("b", {}, direction === "in" ? "← in" : "→ out"),
        element("mark", {}, type), element("code", {}, coloured(JSON.stringify(rest)))));
    const unfolded = JSON.stringify({ type, ...rest }, null, 2);
    const unfold = () => line.append(element("pre", {}, coloured(unfolded)));
    line.addEventListener("toggle", unfold, { once: true });
    line.dataset.type = type;
    hide(line);
    record(log, line);
  };
}
