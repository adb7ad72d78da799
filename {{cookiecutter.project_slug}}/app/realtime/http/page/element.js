/** Return an element with these properties and children; a string becomes text, never HTML. */
export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.flat(Infinity));
  return made;
}

/** Return an input with its label. */
export const labelled = (label, input) => element("label", {}, label, input);

const MAX_LINES = 200;

/** Add a line to a log, which forgets its oldest lines. */
export function record(log, className, ...content) {
  log.append(element("p", { className }, ...content));
  while (log.children.length > MAX_LINES) log.firstChild.remove();
  log.scrollTop = log.scrollHeight;
}

/** Add a message of a user, or of the backend, to a log. */
export function recordMessage(log, { from, ...frame }) {
  const { data = frame } = frame; // a frame of your own may have none
  const text = data?.text ?? data;
  const shown = typeof text === "string" ? text : JSON.stringify(data);
  record(log, "", element("b", {}, from ?? "backend"), ` ${shown}`);
}

const UNITS = { day: 86_400, hour: 3_600, minute: 60, second: 1 };
const RELATIVE = new Intl.RelativeTimeFormat("en");

/** Return how long it is until a Unix time: `in 36 hours`, `in 5 seconds`. */
export function inTime(at_s) {
  const left_s = Math.max(0, at_s - Date.now() / 1_000);
  const unit = Object.keys(UNITS).find((each) => left_s >= 2 * UNITS[each]) ?? "second";
  return RELATIVE.format(Math.ceil(left_s / UNITS[unit]), unit);
}

/** Return what went wrong, in words. */
export const words = ({ code, message }) => (code ? `${code}: ${message}` : message);
