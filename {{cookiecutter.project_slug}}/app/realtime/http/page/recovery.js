// What happened to the connection, in words: how it broke, and how the client recovered.
import { clock, element, follow, record } from "./element.js";

/** Return functions that take what a button did, each status, and each frame of the service. */
export function recoveryIn(log) {
  let wasOnline = false;
  let lostAt = 0; // if it is lost
  let missed = 0; // messages, until the client recovered them
  let returned = element("span"); // the last return, in words

  function tell(text) {
    const line = element("p", {}, clock(), element("span", {}, text));
    record(log, line);
    return line.lastChild;
  }

  function onstatus({ state }) {
    if (state === "offline" && wasOnline) lostAt ||= performance.now();
    if (state === "online" && lostAt) {
      const took_s = ((performance.now() - lostAt) / 1_000).toFixed(1);
      returned = tell(`Online again after ${took_s} s.`);
      missed = 0;
    }
    if (state === "online" || state === "ended") [wasOnline, lostAt] = [state === "online", 0];
  }

  function onframe({ recovered, replayed }) {
    if (!recovered) return;
    missed += replayed;
    const what = `${missed} missed ${missed === 1 ? "message" : "messages"} recovered.`;
    follow(log, () => {
      returned.textContent = returned.textContent.replace(/ s\..*/, ` s. ${what}`);
    });
  }

  return { tell, onstatus, onframe };
}
