// Rooms: who is there, their messages, and a line to write.
import { element, labelled, recordMessage, words } from "./element.js";

/** Return the section of rooms for a connection. */
export function showRooms(ws) {
  const list = element("div", {});
  const name = element("input", { required: true, value: "hall" });
  const failure = element("p", { role: "alert" });
  const shown = new Map();
  const { onstatus } = ws;
  ws.onstatus = (status) => {
    onstatus(status);
    if (status.state === "online") shown.forEach((update) => update());
  };

  function join(event) {
    event.preventDefault();
    failure.textContent = shown.has(name.value) ? `You are in ${name.value} already.` : "";
    if (shown.has(name.value)) return;
    const { article, update, input } = showRoom(ws, name.value, (left, error) => {
      shown.delete(left);
      article.remove();
      failure.textContent = error ? `${left}: ${words(error)}` : "";
      name.focus();
    });
    shown.set(name.value, update);
    list.append(article);
    input.focus();
  }

  return element("section", { ariaLabel: "Rooms" }, element("h2", {}, "Rooms"),
    element("form", { onsubmit: join }, labelled("Room", name), " ", element("button", {}, "Join")),
    failure, list);
}

function described({ user, info }) {
  return info === null ? user : `${user} ${JSON.stringify(info)}`;
}

function showRoom(ws, name, close) {
  const people = element("p", { role: "status" }, "Joining …");
  const messages = element("div", { className: "log", role: "log", tabIndex: 0 });
  messages.ariaLabel = `Messages in ${name}`;
  const input = element("input", { required: true, autocomplete: "off" });
  const failure = element("p", { role: "alert" });
  const room = ws.room(name, {
    state: update,
    message: (data, frame) => recordMessage(messages, frame),
    joined: update,
    updated: update,
    left: update,
    refused: (error) => leave(error),
    evicted: (reason) => close(name, { message: reason ?? "taken out of the room" }),
  });

  async function update() {
    const { members, total } = await room.presence().catch(() => ({ members: [], total: null }));
    if (total === null) return;
    people.textContent = `${total} here: ${members.map(described).join(", ")}`;
  }

  function leave(error) {
    room.leave().catch(() => {});
    close(name, error);
  }

  async function publish(event) {
    event.preventDefault();
    const text = input.value;
    input.value = failure.textContent = "";
    try {
      await room.publish({ text }, { echo: true });
    } catch (error) {
      failure.textContent = `“${text}” may not have arrived. ${words(error)}`;
    }
  }

  const article = element("article", { ariaLabel: `Room ${name}` }, element("h3", {}, name),
    people, messages, failure,
    element("form", { onsubmit: publish }, labelled("Message", input), " ",
      element("button", {}, "Publish"), " ",
      element("button", { type: "button", onclick: () => leave() }, "Leave")));
  return { article, update, input };
}
