// The page at / in development: see the connection, send commands, and break it.
import { connect } from "../client/client.js";
import { labelled, palette } from "./commands.js";
import { element, isolated } from "./element.js";
import { framesIn } from "./frames.js";
import { inTime, recordMessage } from "./log.js";
//# if cookiecutter.redis
import { isPort, showNodes } from "./nodes.js";
//# endif
import { recoveryIn } from "./recovery.js";
//# if cookiecutter.rooms
import { showRooms } from "./rooms.js";
//# endif
import { credentials, fields, hint } from "./sign_in.js";
import { forgetAll, storage } from "./storage.js";

const PING_MS = 5_000;
const TICK_MS = 200;
const DROPPED = 4000;
const EXPIRES_S = 5;
const NO_NETWORK = "this page simulates a lost network";
//# if cookiecutter.redis and cookiecutter.rooms
const LOST = "The service may have lost messages. The client asks for them.";
//# elif cookiecutter.redis
const LOST = "The service may have lost messages.";
//# endif
const byId = (id) => /** @type {any} */ (document.getElementById(id));
const show = (id, text) => { byId(id).textContent = text; };

let ws = /** @type {import("../client/client.js").Connection | null} */ (null);
let socket = null;
let isOffline = false;
let retriesAt = 0;
let expiresAt = null;
let expiring = null; // credentials to ask for once
let connects = 0; // since the sign-in
//# if cookiecutter.auth == "jwt" or cookiecutter.rooms
const unanswered = new Map(); // the types of the commands without an answer, by their id
//# endif
//# if cookiecutter.rooms
let rooms = new Map(); // by name, the function that leaves it
//# endif
let url = "ws"; // relative to this page
const showFrame = framesIn(byId("frames"), byId("filter"));
const recovery = recoveryIn(byId("recovery"));

/** The WebSocket of the client, which the buttons break. */
globalThis.WebSocket = class extends WebSocket {
  constructor(/** @type {ConstructorParameters<typeof WebSocket>} */ ...options) {
    if (isOffline) throw new Error(NO_NETWORK);
    super(...options);
    socket = this;
  }
};

function inWords({ state, attempt, code, reason }) {
  const cause = reason?.replace(/^\w*Error: /, "") || "the service refuses or does not answer";
  const why = `${cause} (${code})`;
  const help = connects || reason ? "" : ` If it runs, add ${location.origin} to ALLOWED_ORIGINS.`;
  return {
    connecting: () => `Connecting, attempt ${attempt} …`,
    online: () => ["Online as ", isolated(ws.welcome.user)],
    offline: () => `Offline: ${why}.${help}`,
    ended: () => `Ended: ${why}. Connect again to return.`,
  }[state]();
}

function onstatus(status) {
  const isOnline = status.state === "online";
  show("latency", "");
  //# if cookiecutter.auth == "jwt" or cookiecutter.rooms
  if (!isOnline) unanswered.clear(); // the answers were lost
  //# endif
  if (isOnline) {
    connects++;
    measure();
    expiresAt = ws.welcome.expires_at;
    byId("another").hidden = false;
    byId("expire").hidden = ws.welcome.expires_at === null;
  }
  byId("state").replaceChildren(...[inWords(status)].flat());
  byId("state").className = status.state;
  show("reconnects", Math.max(0, connects - 1));
  disable(!isOnline, "drop", "expire");
  disable(status.state === "ended", "end", "offline");
  retriesAt = (Date.now() + status.pause_ms) / 1_000;
  recovery.onstatus(status);
  tick();
}

function onframe(direction, text) {
  const frame = JSON.parse(text);
  showFrame(direction, frame.type, text);
  //# if cookiecutter.redis
  if (frame.type === "resync") recovery.tell(LOST);
  //# endif
  //# if cookiecutter.auth == "jwt" or cookiecutter.rooms
  const command = unanswered.get(frame.id); // frames of your own may have the same fields
  if (direction === "out") unanswered.set(frame.id, frame.type);
  else unanswered.delete(frame.id);
  //# endif
  //# if cookiecutter.auth == "jwt"
  if (command === "refresh" && "expires_at" in frame) expiresAt = frame.expires_at;
  //# endif
  //# if cookiecutter.rooms
  if (command === "join" && frame.recovered) recovery.count(frame.replayed);
  //# endif
}

async function measure() {
  if (ws?.status.state !== "online" || document.hidden) return;
  const took_ms = await ws.ping().catch(() => null);
  show("latency", took_ms === null ? "" : `${took_ms.toFixed(1)} ms`);
}

function tick() {
  const state = ws?.status.state;
  show("next", state === "offline" ? inTime(retriesAt) : "");
  show("expiry", state === "online" && expiresAt ? inTime(expiresAt) : "");
}

function signIn(answers) {
  storage.answers = JSON.stringify(answers); // to sign in again after a reload
  ws?.close();
  [connects, expiresAt, expiring] = [0, null, null];
  ws = connect(url, { token });
  const onmessage = (frame) => recordMessage(byId("inbox"), frame, ws.welcome.user);
  Object.assign(ws, { onstatus, onframe, onmessage });
  //# if cookiecutter.rooms
  const { section, shown } = showRooms(ws);
  byId("parts").replaceChildren(section);
  rooms = shown;

  //# endif
  function token() {
    const once = expiring ?? answers;
    expiring = null;
    return credentials(once);
  }
}

async function send(command) {
  if (!ws) throw new Error("not connected yet");
  //# if cookiecutter.rooms
  if (command.type === "leave" && rooms.has(command.room)) return rooms.get(command.room)();
  //# endif
  return ws.request(command);
}

function setOffline(value) {
  isOffline = value;
  byId("offline").ariaPressed = value;
}

function switchOffline() {
  setOffline(!isOffline);
  recovery.tell(isOffline
    ? "The network is cut until you press Go offline again, or Disconnect."
    : "The network is back. The client tries at once.");
  if (isOffline) socket?.close(DROPPED, NO_NETWORK);
  else dispatchEvent(new Event("online"));
}

function drop() {
  recovery.tell("Dropped. The client connects again after a short pause.");
  socket.close(DROPPED, "dropped by this page");
}

/** Sign in again with credentials that expire soon; after that, with normal ones. */
function expire() {
  expiring = { user: ws.welcome.user, lifetime_s: EXPIRES_S };
  recovery.tell(`The client signs in with credentials for ${EXPIRES_S} s, then with new ones.`);
  socket.close(DROPPED, `the next credentials expire after ${EXPIRES_S} s`);
}

function disconnect() {
  ws.close();
  setOffline(false);
  forgetAll();
}

/** Disable buttons, which keep the focus, unlike those with the attribute `disabled`. */
function disable(isDisabled, ...ids) {
  for (const id of ids) byId(id).ariaDisabled = isDisabled;
}

function onPress(id, action) {
  byId(id).onclick = () => { if (byId(id).ariaDisabled !== "true") action(); };
}

show("hint", hint);
byId("sign-in").prepend(...Object.entries(fields).map(([name, label]) =>
  labelled(label, element("input", { name, required: true, autocomplete: "off" }))));
byId("sign-in").onsubmit = (event) => {
  event.preventDefault();
  const answers = [...new FormData(event.target)];
  signIn(Object.fromEntries(answers.map(([name, answer]) => [name, `${answer}`.trim()])));
};
onPress("drop", drop);
onPress("offline", switchOffline);
onPress("expire", expire);
onPress("end", disconnect);
setInterval(measure, PING_MS);
setInterval(tick, TICK_MS);

// A link may fill in the form, even with credentials, which must not stay in the address bar.
const link = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
history.replaceState(null, "", location.pathname);
addEventListener("hashchange", () => location.reload()); // a link was opened in this tab
//# if cookiecutter.redis
const node = link.get("node") ?? "";
link.delete("node");
if (isPort(node)) {
  history.replaceState(null, "", `#node=${node}`);
  byId("another").after(showNodes(node));
}
//# endif
const given = link.size ? Object.fromEntries(link) : JSON.parse(storage.answers ?? "null");
for (const name of Object.keys(fields)) byId("sign-in").elements[name].value = given?.[name] ?? "";

try {
  const response = await fetch("asyncapi.json");
  if (!response.ok) throw new Error(`asyncapi.json: ${response.status} ${response.statusText}`);
  const asyncapi = await response.json();
  url = asyncapi.channels.connection.address.slice(1);
  document.title = asyncapi.info.title;
  show("title", asyncapi.info.title);
  show("description", asyncapi.info.description);
  byId("palette").append(palette(asyncapi, send));
} catch (failure) {
  show("failure", `The commands cannot be shown. ${failure.message}`);
}

if (given && !ws) signIn(given);
