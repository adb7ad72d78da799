// What happened to the connection, in words: how it broke, and how the client recovered.
import { clock, element, follow, record } from "./element.js";

/** Return functions that take what a button did, each status, and each frame of the service. */
export function recoveryIn(log) {
  let wasOnline = false;
  let lostAt = 0; // if it is lost
  let recovery = null; // the last one

  function tell(text) {
    const told = element("span", {}, text);
    record(log, element("p", {}, clock(), told));
    recovery = { text, told, messages: 0 };
  }

  function onstatus({ state }) {
    if (state === "offline" && wasOnline) lostAt ||= performance.now();
    if (state === "online" && lostAt) {
      const took_s = ((performance.now() - lostAt) / 1_000).toFixed(1);
      tell(`Online again after ${took_s} s.`);
    }
    if (state === "online" || state === "ended") [wasOnline, lostAt] = [state === "online", 0];
  }

  function onframe(frame) {
    //# if cookiecutter.redis
    if (frame.type === "resync") tell("The service may have lost messages. The client asks for them.");
    //# endif
    if (!frame.recovered || !recovery) return;
    recovery.messages += frame.replayed;
    const { text, told, messages } = recovery;
    const what = `${messages} missed ${messages === 1 ? "message" : "messages"} recovered.`;
    follow(log, () => { told.textContent = `${text} ${what}`; });
  }

  return { tell, onstatus, onframe };
}
