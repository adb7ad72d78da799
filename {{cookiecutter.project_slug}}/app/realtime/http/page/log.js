// Logs that scroll to their newest line, and the texts in them.
import { element, isolated } from "./element.js";

const MAX_LINES = 200;
const NEAR_PX = 40;

/** Make a change to a log, and scroll to its end, unless the reader has scrolled up. */
export function follow(log, change) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
  change();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

/** Add a line to a log, which drops its oldest lines. */
export function record(log, line) {
  follow(log, () => {
    log.append(line);
    while (log.children.length > MAX_LINES) log.firstChild.remove();
  });
}

/** Return a message of a user, or of the backend, as a bubble. */
export function bubble({ from, offset = null }, user, ...content) {
  return element("div", { className: from === user ? "message own" : "message" },
    element("b", {}, isolated(from ?? "backend")), " ", element("span", {}, ...content),
    offset ? element("small", {}, ` #${offset}`) : []);
}

/** Add a message to a log; those of this user are on the other side. */
export function recordMessage(log, frame, user) {
  const { from: _, ...rest } = frame;
  const { data = rest } = frame; // a frame of your own may have none
  const text = data?.text ?? data;
  record(log, bubble(frame, user, isolated(typeof text === "string" ? text : JSON.stringify(data))));
}

/** Return the beginning of a text; no character is cut in two. */
export const beginning = (text, characters) =>
  [...text.slice(0, 2 * characters)].slice(0, characters).join("");

const CLOCK = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });
const UNITS = { day: 86_400, hour: 3_600, minute: 60, second: 1 };
const RELATIVE = new Intl.RelativeTimeFormat("en");

/** Return the time of day. */
export const clock = () => element("time", {}, CLOCK.format(Date.now()));

/** Return how long it is until a Unix time: `in 36 hours`, `in 5 seconds`. */
export function inTime(at_s) {
  const left_s = Math.max(0, at_s - Date.now() / 1_000);
  const units = /** @type {Intl.RelativeTimeFormatUnit[]} */ (Object.keys(UNITS));
  const unit = units.find((each) => left_s >= 2 * UNITS[each]) ?? "second";
  return RELATIVE.format(Math.ceil(left_s / UNITS[unit]), unit);
}

/** Return what went wrong, in words. */
export const words = ({ code, message }) => (code ? `${code}: ${message}` : message);
