// Rooms: who is there, who types, their messages, a form to write, and an answer in tokens.
import { answering, isToken, newKey, sleep } from "./answer.js";
import { labelled } from "./commands.js";
import { element, isolated } from "./element.js";
import { beginning, record, recordMessage, words } from "./log.js";
import { storage } from "./storage.js";

const LAST = 100;
const TYPING_MS = 2_000;
const [SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS] = [1_000, 16_000];
const MAX_QUOTED = 80; // characters
const EMPTY = "No messages yet. Write one. Or stream an answer, and reload this page in the middle.";

/** Shorten a text for an error message. */
function shortened(text) {
  const quoted = beginning(text, MAX_QUOTED);
  return quoted === text ? text : `${quoted}…`;
}

/** Return the section of a connection's rooms, and by name the functions that leave them. */
export function showRooms(ws) {
  const list = element("div", {});
  const name = element("input", { required: true, value: "hall" });
  const kept = JSON.parse(storage.rooms ?? "[]"); // the rooms before a reload
  const failure = element("p", { role: "alert" });
  const shown = new Map();

  function keep() {
    storage.rooms = JSON.stringify([...shown.keys()]);
  }

  function join(joined) {
    const { article, input, leave } = showRoom(ws, joined, (left, error) => {
      shown.delete(left);
      keep();
      const hadFocus = article.contains(document.activeElement);
      article.remove();
      failure.replaceChildren(...(error ? [isolated(shortened(left)), `: ${words(error)}`] : []));
      if (hadFocus) name.focus();
    });
    shown.set(joined, leave);
    keep();
    list.append(article);
    return input;
  }

  function submit(event) {
    event.preventDefault();
    const isShown = shown.has(name.value);
    failure.replaceChildren(
      ...(isShown ? ["You are in ", isolated(name.value), " already."] : []));
    try {
      if (!isShown) join(name.value).focus();
    } catch (error) {
      failure.textContent = words(error);
    }
  }

  kept.forEach(join);

  const section = element("section", { ariaLabel: "Rooms" }, element("h2", {}, "Rooms"),
    element("form", { className: "line", onsubmit: submit },
      labelled("Room", name), element("button", {}, "Join")),
    failure, list);
  return { section, shown };
}

/** Return the number of users in a room, and a list of them with their infos. */
function people({ members, total }) {
  const names = members.map(({ user, info }) => element("li", {},
    isolated(user), info === null ? [] : [" ", isolated(JSON.stringify(info))]));
  return [`${total} here`, element("ul", {}, names)];
}

function showRoom(ws, name, close) {
  const members = element("div", { className: "members" }, "Joining …");
  const messages = element("div", { className: "log", role: "log", tabIndex: 0 });
  messages.ariaLabel = `Messages in ${name}`;
  messages.dataset.empty = EMPTY;
  const typing = element("p", { className: "typing" });
  const input = element("input", { required: true, autocomplete: "off", oninput: type });
  const failure = element("p", { role: "alert" });
  const room = ws.room(name, {
    last: LAST,
    message,
    joined: (who) => happened(who, "joined"),
    updated: update,
    left: (who) => happened(who, "left"),
    rejoined: update,
    gap: () => event("Some messages may be missing here."),
    refused: (error) => close(name, error),
    evicted: (reason) => close(name, { message: reason ?? "taken out of the room" }),
  });
  let known; // the user, also while the client is offline
  const user = () => (known = ws.welcome?.user ?? known);
  const answers = answering(room, messages, user);
  const keys = new Map(); // keys of messages that may not have arrived, by their text
  let typedAt = -TYPING_MS;
  let hiding = 0;
  let isUpdating = false;
  let isOutdated = false;

  function event(...content) {
    record(messages, element("p", { className: "event" }, content));
  }

  function happened(who, what) {
    event(isolated(who), ` ${what}`);
    update();
  }

  function message(data, frame) {
    const isTyping = frame.offset === null && data?.typing === true;
    clearTimeout(hiding);
    typing.replaceChildren(...(isTyping ? [isolated(frame.from ?? "backend"), " is typing …"] : []));
    if (isTyping) hiding = setTimeout(() => typing.replaceChildren(), 2 * TYPING_MS);
    else if (isToken(data)) answers.show(data, frame.from);
    else recordMessage(messages, frame, user());
  }

  /** Show who is here: one request at a time, and a pause after each, longer at the rate limit. */
  async function update() {
    isOutdated = true;
    if (isUpdating) return;
    isUpdating = true;
    let pause_ms = SHORTEST_PAUSE_MS;
    while (isOutdated && ws.rooms.get(name) === room) {
      isOutdated = false;
      try {
        await showMembers();
        pause_ms = SHORTEST_PAUSE_MS;
      } catch (error) {
        isOutdated ||= error.retry;
        if (error.code === "rate_limited") pause_ms = Math.min(2 * pause_ms, LONGEST_PAUSE_MS);
      }
      await sleep(pause_ms);
    }
    isUpdating = false;
  }

  async function showMembers() {
    try {
      members.replaceChildren(...people(await room.presence()));
    } catch (error) {
      if (error.code !== "forbidden" || ws.rooms.get(name) !== room) throw error;
      members.textContent = "Joined. This room does not show who is here.";
    }
    attempt(answers.resume); // the missed messages have arrived before the list of members
  }

  function leave() {
    const answer = room.leave();
    answer.catch(() => {}); // the room is left in any case
    close(name);
    return answer;
  }

  /** Tell the others that the user types, at most every `TYPING_MS`; not kept, never repeated. */
  function type() {
    if (performance.now() - typedAt < TYPING_MS) return;
    typedAt = performance.now();
    room.publish({ typing: true }, { keep: false }).catch(() => {});
  }

  async function attempt(action, onFailure = () => "The answer") {
    try {
      await action();
    } catch (error) {
      failure.replaceChildren(onFailure(), ` may not have arrived. ${words(error)}`);
    }
  }

  function publish(submission) {
    submission.preventDefault();
    const text = input.value;
    const key = keys.get(text) ?? newKey();
    keys.delete(text); // once it has arrived, the same text is another message
    input.value = failure.textContent = "";
    typedAt = -TYPING_MS;
    attempt(() => room.publish({ text }, { echo: true, key }), () => {
      keys.set(text, key);
      input.value ||= text;
      if (input.value !== text) event("May not have arrived: ", isolated(text));
      return isolated(`“${shortened(text)}”`);
    });
  }

  update();
  const article = element("article", { ariaLabel: `Room ${name}` },
    element("div", { className: "line" }, element("h3", {}, isolated(name)),
      element("button", { type: "button", onclick: leave }, "Leave")),
    members, messages, typing, failure,
    element("form", { className: "line", onsubmit: publish }, labelled("Message", input),
      element("button", {}, "Publish"),
      element("button", { type: "button", onclick: () => attempt(answers.start) }, "Stream an answer")));
  return { article, input, leave };
}
