// An answer in tokens, as a language model gives it: each token is a message of the room.
import { element } from "./element.js";
import { bubble, follow, record } from "./log.js";

const TOKENS = `Each of these words is a message of its own, numbered and kept for a while. Reload this
  page in the middle: the room replays the words that you missed, and the answer goes on.`.split(/\s+/);
const PAUSE_MS = 150;

/** Return functions that show answers in a room, and send one that continues after a reload. */
export function answering(room, log, user) {
  const paragraphs = new Map();
  const unfinished = `answer in ${room.name}`;
  let isGiving = false;

  /** Add a token to its answer. */
  function show({ answer, token }, from) {
    if (!paragraphs.has(answer)) {
      paragraphs.set(answer, element("span", { className: "answer" }));
      record(log, bubble({ from }, user(), paragraphs.get(answer)));
    }
    follow(log, () => paragraphs.get(answer).append(element("span", {}, ` ${token}`)));
  }

  /** Send the tokens that are missing of the unfinished answer; none twice, thanks to its key. */
  async function resume() {
    const answer = sessionStorage[unfinished];
    if (!answer || isGiving) return;
    isGiving = true;
    try {
      for (let at = paragraphs.get(answer)?.children.length ?? 0; at < TOKENS.length; at++) {
        const key = `${answer}-${at}`;
        await room.publish({ answer, token: TOKENS[at] }, { echo: true, key });
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
      delete sessionStorage[unfinished];
    } finally {
      isGiving = false;
    }
  }

  /** Give another answer. */
  function start() {
    sessionStorage[unfinished] ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
    return resume();
  }

  return { show, resume, start };
}
