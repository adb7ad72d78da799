// Rooms: who is there, who types, their messages, a line to write, and an answer in tokens.
import { answering } from "./answer.js";
import { labelled } from "./commands.js";
import { element } from "./element.js";
import { record, recordMessage, words } from "./log.js";

const LAST = 100;
const TYPING_MS = 2_000;
const RETRY_MS = 1_000;
const EMPTY = "No messages yet. Write one. Or stream an answer, and reload this page in the middle.";

/** Return the section of rooms for a connection, and how to leave each room that it shows. */
export function showRooms(ws) {
  const list = element("div", {});
  const name = element("input", { required: true, value: "hall" });
  const kept = JSON.parse(sessionStorage.rooms ?? "[]"); // over a reload
  const failure = element("p", { role: "alert" });
  const shown = new Map();

  function keep() {
    sessionStorage.rooms = JSON.stringify([...shown.keys()]);
  }

  function join(joined) {
    const { article, input, leave } = showRoom(ws, joined, (left, error) => {
      shown.delete(left);
      keep();
      article.remove();
      failure.textContent = error ? `${left}: ${words(error)}` : "";
      name.focus();
    });
    shown.set(joined, leave);
    keep();
    list.append(article);
    input.focus();
  }

  function submit(event) {
    event.preventDefault();
    failure.textContent = shown.has(name.value) ? `You are in ${name.value} already.` : "";
    try {
      if (!shown.has(name.value)) join(name.value);
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

/** Return who is in a room: a dot and the name of each. */
function people({ members, total }) {
  const described = ({ user, info }) => (info === null ? user : `${user} ${JSON.stringify(info)}`);
  const names = members.map((member) => element("li", {}, described(member)));
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
    joined: (who) => happened(`${who} joined`),
    updated: update,
    left: (who) => happened(`${who} left`),
    rejoined: update,
    gap: () => event("Some messages may be missing here."),
    refused: (error) => close(name, error),
    evicted: (reason) => close(name, { message: reason ?? "taken out of the room" }),
  });
  const user = () => ws.welcome?.user;
  const answers = answering(room, messages, user);
  let typedAt = -TYPING_MS;
  let hiding = 0;

  function event(text) {
    record(messages, element("p", { className: "event" }, text));
  }

  function happened(text) {
    event(text);
    update();
  }

  function message(data, frame) {
    clearTimeout(hiding);
    typing.textContent = data?.typing ? `${frame.from} is typing …` : "";
    if (data?.typing) hiding = setTimeout(() => { typing.textContent = ""; }, 2 * TYPING_MS);
    else if (data?.token) answers.show(data, frame.from);
    else recordMessage(messages, frame, user());
  }

  async function update() {
    try {
      members.replaceChildren(...people(await room.presence()));
    } catch (error) {
      if (error.retry && ws.rooms.get(name) === room) setTimeout(update, RETRY_MS);
      if (error.code !== "forbidden") return;
      members.textContent = "Joined. This room does not show who is here.";
    }
    attempt(answers.resume); // the messages that were missed have come before the members
  }

  function leave() {
    const answer = room.leave();
    answer.catch(() => {}); // the room is left in any case
    close(name);
    return answer;
  }

  /** Tell the others at most every `TYPING_MS`; not kept, and not repeated if it gets lost. */
  function type() {
    if (performance.now() - typedAt < TYPING_MS) return;
    typedAt = performance.now();
    room.publish({ typing: true }, { keep: false }).catch(() => {});
  }

  async function attempt(action, what = "The answer") {
    try {
      await action();
    } catch (error) {
      failure.textContent = `${what} may not have arrived. ${words(error)}`;
    }
  }

  function publish(event) {
    event.preventDefault();
    const text = input.value;
    input.value = failure.textContent = "";
    typedAt = -TYPING_MS;
    attempt(() => room.publish({ text }, { echo: true }), `“${text}”`);
  }

  update();
  const article = element("article", { ariaLabel: `Room ${name}` },
    element("div", { className: "line" }, element("h3", {}, name),
      element("button", { type: "button", onclick: leave }, "Leave")),
    members, messages, typing, failure,
    element("form", { className: "line", onsubmit: publish }, labelled("Message", input),
      element("button", {}, "Publish"),
      element("button", { type: "button", onclick: () => attempt(answers.start) }, "Stream an answer")));
  return { article, input, leave };
}
