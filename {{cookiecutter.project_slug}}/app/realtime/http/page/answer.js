// An answer in tokens, as a language model gives it: each token is a message of the room.
import { element } from "./element.js";
import { bubble, follow, record } from "./log.js";
import { storage } from "./storage.js";

const TOKENS = `Each of these words is a message of its own, numbered and kept for a while. Reload this
  page in the middle: the room replays the words that you missed, and the answer goes on.`.split(/\s+/);
const PAUSE_MS = 150;

/** Return a new key for a message: repeated with it, the message is sent once. */
export const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Wait. */
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Return whether the data of a message is a token. A team's own messages may have such fields. */
export const isToken = (data) =>
  typeof data?.answer === "string" && typeof data.token === "string";

/** Return functions that show answers in a room, and send one that continues after a reload. */
export function answering(room, log, user) {
  //# if cookiecutter.auth == "none"
  const unfinished = () => `answer in ${room.name}`;
  //# else
  const unfinished = () => `answer of ${user()} in ${room.name}`;
  //# endif
  let isGiving = false;

  //# if cookiecutter.auth == "none"
  const keyOf = (answer, _) => answer; // a reload makes the user another guest

  //# else
  const keyOf = (answer, from) => JSON.stringify([answer, from]); // others may send the same key

  //# endif
  /** Return the paragraph of an answer, unless the log has dropped it. */
  const paragraphOf = (key) =>
    [...log.querySelectorAll(".answer")].find(({ dataset }) => dataset.key === key);

  /** Add a token to its answer. */
  function show({ answer, token }, from) {
    const key = keyOf(answer, from);
    let paragraph = paragraphOf(key);
    if (!paragraph) {
      paragraph = element("bdi", { className: "answer" });
      paragraph.dataset.key = key;
      record(log, bubble({ from }, user(), paragraph));
    }
    follow(log, () => paragraph.append(element("span", {}, ` ${token}`)));
  }

  /** Send the missing tokens of the unfinished answer; each has a key, so none arrives twice. */
  async function resume() {
    const name = unfinished();
    const answer = storage[name];
    if (!answer || isGiving) return;
    isGiving = true;
    try {
      const paragraph = paragraphOf(keyOf(answer, user()));
      for (let at = paragraph?.children.length ?? 0; at < TOKENS.length; at++) {
        const key = `${answer}-${at}`;
        await room.publish({ answer, token: TOKENS[at] }, { echo: true, key });
        await sleep(PAUSE_MS);
      }
      delete storage[name];
    } finally {
      isGiving = false;
    }
  }

  /** Begin an answer, or continue the unfinished one. */
  async function start() {
    if (!user()) throw new Error("not connected yet");
    storage[unfinished()] ??= newKey();
    return resume();
  }

  return { show, resume, start };
}
