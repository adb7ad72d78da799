// What happened to the connection, in words: how it broke, and how the client recovered.
import { element } from "./element.js";
import { clock, follow, record } from "./log.js";

/** Return functions that record what happens in this log. */
export function recoveryIn(log) {
  let wasOnline = false;
  let lostAt = 0; // 0 unless the connection is lost
  //# if cookiecutter.rooms
  let last = null; // line, with the number of recovered messages
  //# endif

  function tell(text) {
    const told = element("span", {}, text);
    record(log, element("p", {}, clock(), told));
    //# if cookiecutter.rooms
    last = { text, told, messages: 0 };
    //# endif
  }

  function onstatus({ state }) {
    if (state === "offline" && wasOnline) lostAt ||= performance.now();
    if (state === "online" && lostAt) {
      const took_s = ((performance.now() - lostAt) / 1_000).toFixed(1);
      tell(`Online again after ${took_s} s.`);
    }
    if (state === "online" || state === "ended") [wasOnline, lostAt] = [state === "online", 0];
  }

  //# if cookiecutter.rooms
  function count(recovered) {
    if (!last) return;
    last.messages += recovered;
    const { text, told, messages } = last;
    const what = `${messages} missed ${messages === 1 ? "message" : "messages"} recovered.`;
    follow(log, () => { told.textContent = `${text} ${what}`; });
  }

  return { tell, onstatus, count };
  //# else
  return { tell, onstatus };
  //# endif
}
