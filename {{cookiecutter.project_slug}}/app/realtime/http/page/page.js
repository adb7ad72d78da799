// The page at / in development: see the connection, send commands, and break it.
import { connect } from "../client/client.js";
import { palette } from "./commands.js";
import { element, labelled, record, recordMessage } from "./element.js";
//# if cookiecutter.rooms
import { showRooms } from "./rooms.js";
//# endif
import { credentials, fields, hint } from "./sign_in.js";

const PING_MS = 5_000;
const DROPPED = 4000;
const byId = (id) => document.getElementById(id);
const show = (id, text) => { byId(id).textContent = text; };

let ws = null;
let socket = null;
let isOffline = false;
let expiresAt = null;
let times = 0; // online

/** The WebSocket of the client, which the buttons break. */
globalThis.WebSocket = class extends WebSocket {
  constructor(...options) {
    if (isOffline) throw new Error("this page plays offline");
    super(...options);
    socket = this;
  }
};

function inWords({ state, attempt, code, reason, pause_ms }) {
  const why = `${reason || "the service refuses or does not answer"} (${code})`;
  const origins = times || reason ? "" : ` Has ALLOWED_ORIGINS ${location.origin}?`;
  return {
    connecting: () => `Connecting, attempt ${attempt} …`,
    online: () => `Online as ${ws.welcome.user}`,
    offline: () => `Offline: ${why}. Next attempt in ${(pause_ms / 1_000).toFixed(1)} s.${origins}`,
    ended: () => `Ended: ${why}. Connect again to return.`,
  }[state]();
}

function onstatus(status) {
  if (status.state === "online") times++;
  if (status.state === "online") measure();
  show("state", inWords(status));
  byId("state").className = status.state;
  show("reconnects", Math.max(0, times - 1));
  byId("drop").disabled = status.state !== "online";
  byId("end").disabled = status.state === "ended";
}

function onframe(direction, text) {
  const frame = JSON.parse(text);
  if ("expires_at" in frame) expiresAt = frame.expires_at;
  const isPing = frame.type === "ping" || frame.type === "pong";
  const arrow = element("b", {}, direction === "in" ? "← in " : "→ out ");
  record(byId("frames"), isPing ? "ping" : "", arrow, text);
}

async function measure() {
  if (ws?.status.state !== "online" || document.hidden) return;
  const took_ms = await ws.ping().catch(() => null);
  show("latency", took_ms === null ? "–" : `${took_ms.toFixed(1)} ms`);
}

function tick() {
  const left_s = Math.round(expiresAt - Date.now() / 1_000);
  const isOnline = ws?.status.state === "online";
  show("expiry", !isOnline ? "–" : expiresAt ? `in ${Math.max(0, left_s)} s` : "never");
}

function signIn(event) {
  event?.preventDefault();
  const answers = Object.fromEntries(new FormData(byId("sign-in")));
  sessionStorage.answers = JSON.stringify(answers); // over a reload
  ws?.close();
  [times, expiresAt] = [0, null];
  ws = connect(url, { token: () => credentials(answers) });
  const onmessage = (frame) => recordMessage(byId("inbox"), frame);
  Object.assign(ws, { onstatus, onframe, onmessage });
  //# if cookiecutter.rooms
  byId("parts").replaceChildren(showRooms(ws));
  //# endif
}

async function send(command) {
  if (!ws) throw new Error("not connected yet");
  return ws.request(command);
}

function switchOffline() {
  isOffline = !isOffline;
  byId("offline").ariaPressed = isOffline;
  if (isOffline) socket?.close(DROPPED, "this page plays offline");
  else dispatchEvent(new Event("online")); // the client tries at once
}

let url = "ws";
try {
  const response = await fetch("asyncapi.json");
  if (!response.ok) throw new Error(`asyncapi.json: ${response.status} ${response.statusText}`);
  const asyncapi = await response.json();
  url = asyncapi.channels.connection.address.slice(1); // relative to this page
  document.title = asyncapi.info.title;
  show("title", asyncapi.info.title);
  show("description", asyncapi.info.description);
  byId("palette").append(palette(asyncapi, send));
} catch (failure) {
  show("failure", `The commands cannot be shown. ${failure.message}`);
}

show("hint", hint);
byId("fields").append(...Object.entries(fields).map(([name, label]) =>
  labelled(label, element("input", { name, required: true, autocomplete: "off" }))));
byId("sign-in").onsubmit = signIn;
byId("drop").onclick = () => socket.close(DROPPED, "dropped by this page");
byId("offline").onclick = switchOffline;
byId("end").onclick = () => {
  ws.close();
  sessionStorage.clear();
};
setInterval(measure, PING_MS);
setInterval(tick, 1_000);

// A link from `make token` brings the credentials; the address must not keep them.
const given = location.hash
  ? new URLSearchParams(location.hash.slice(1))
  : Object.entries(JSON.parse(sessionStorage.answers ?? "{}"));
for (const [name, value] of given)
  if (name in fields) byId("sign-in").elements[name].value = value;
if ((location.hash || sessionStorage.answers) && byId("sign-in").checkValidity()) signIn();
history.replaceState(null, "", location.pathname);
