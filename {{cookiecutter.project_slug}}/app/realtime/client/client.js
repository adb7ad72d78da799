/**
 * The JavaScript client: a connection that repairs itself. docs/clients.md explains it.
//# if cookiecutter.auth in ["jwt", "ticket"]
 *   const ws = connect("/ws", { token });
//# elif cookiecutter.auth == "api_key"
 *   const ws = connect("ws://127.0.0.1:8000/ws", { token });
//# else
 *   const ws = connect("/ws");
//# endif
 *   await ws.request({ type: "send", to: "bob", data: "hello" });
 */

//# if cookiecutter.rooms
import { Room } from "./rooms.js";

//# endif
/**
 * @typedef {Record<string, any>} Frame A frame of docs/protocol.md.
 * @typedef {string | (() => unknown)} Token Called and awaited before every attempt. Null ends the
//# if cookiecutter.auth == "jwt"
 *   connection. It returns a JSON Web Token, and is also called before that expires.
//# elif cookiecutter.auth == "ticket"
 *   connection. It returns a new ticket.
//# elif cookiecutter.auth == "session"
 *   connection. It may renew the cookie of your site; the value is not sent.
//# elif cookiecutter.auth == "api_key"
 *   connection. It returns the API key.
//# else
 *   connection. The value is not sent.
//# endif
 * @typedef { { token?: Token }} Options
 * @typedef {(answer: Frame) => void} Settle
//# if cookiecutter.rooms
 * @typedef { { text: string, room: any, sent?: boolean, settle: Settle }} Request The room must be
 *   joined before, if it is one of `rooms`.
//# else
 * @typedef { { text: string, sent?: boolean, settle: Settle }} Request
//# endif
 * @typedef {"connecting" | "online" | "offline" | "ended"} State
 * @typedef { { code?: number, reason?: string, pause_ms?: number }} Cause When offline or ended.
 * @typedef { { state: State, attempt: number } & Cause} Status The attempt is 1 at first, and for a
 *   connection that has lasted.
 */

const TIMEOUT_MS = 10_000;
const LATE_MS = 1_000;
const SHORTEST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 20_000;
const MAX_TIMER_MS = 2 ** 31 - 1; // longer ones would fire at once
const HEARTBEAT = { interval_s: 25, timeout_s: 10 };
const NORMAL = 1000;
const ABNORMAL = 1006;
const UNAUTHORIZED = 4500;
const FINAL = [1002, 1003, 1007, 1009];
//# if cookiecutter.auth == "jwt"
const TOKEN = /^[\w!#$%&'*+.^`|~-]*$/; // a token of RFC 9110, as subprotocols are
//# elif cookiecutter.auth in ["ticket", "api_key"]
const TOKEN = /^[!-~]*$/;
//# endif

/** A request failed; `code` is the server's, or timeout, disconnected, ended, too_large. */
export class RequestError extends Error {
  constructor(/** @type {Frame} */ answer) {
    super(answer.message);
    this.code = answer.code;
    this.retry = answer.retry;
  }
}

/**
 * Call a handler. Its errors are reported as uncaught, unless there is an `onError`.
 * @type {(handler: () => unknown, onError?: (error: unknown) => unknown) => Promise<unknown>}
 */
export const call = (handler, onError = globalThis.document ? reportError : console.error) =>
  new Promise((resolve) => resolve(handler())).catch(onError);

/**
 * Throw unless fields of a frame have the types of examples.
 * @type {(frame: Frame, examples: Frame) => void}
 */
export const check = (frame, examples) => {
  for (const name in examples)
    if (typeof frame[name] !== typeof examples[name]) throw new TypeError(`an invalid ${name}`);
};

/** @type {(code: string, message: string, retry?: boolean) => Frame} */
const failure = (code, message, retry = false) => ({ type: "error", code, message, retry });
const ENDED = failure("ended", "the connection has ended");

/** Return a random time from 0.5 s to a limit that doubles with each attempt, up to 20 s. */
export const pause = (/** @type {number} */ attempt) =>
  SHORTEST_PAUSE_MS +
  Math.random() * (Math.min(LONGEST_PAUSE_MS, 1_000 * 2 ** attempt) - SHORTEST_PAUSE_MS);

/**
 * Connect, and stay connected until `close()`.
 * @type {(url: string, options?: Options) => Connection}
 */
export const connect = (url, options = {}) => new Connection(url, options.token);

/** A connection, over as many WebSockets as it takes. */
export class Connection {
  onstatus = (/** @type {Status} */ status) => {};
  onmessage = (/** @type {Frame} */ frame) => {}; // to the user or to all, or a frame of your own
  onframe = (/** @type {"in" | "out"} */ direction, /** @type {string} */ text) => {};
  status = /** @type {Status} */ ({ state: "connecting", attempt: 0 });
  welcome = /** @type {Frame | null} */ (null);
  //# if cookiecutter.rooms
  rooms = /** @type {Map<string, Room>} */ (new Map());
  left = /** @type {Map<string, Room>} */ (new Map()); // until their `leave` is answered
  //# endif
  #socket = /** @type {WebSocket | null} */ (null);
  #turn = 0; // changes with each attempt: what belongs to an older one is ignored
  #attempt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #timer = /** @type {any} */ (0);
  //# if cookiecutter.auth == "jwt"
  #refreshTimer = /** @type {any} */ (0);
  //# endif
  #lastId = 0;
  #requests = /** @type {Map<string, Request>} */ (new Map());
  #listeners = new AbortController();

  constructor(/** @type {string} */ url, /** @type {Token | undefined} */ token) {
    this.url = new URL(url, globalThis.location?.href);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    //# if cookiecutter.auth in ["jwt", "ticket", "api_key"]
    this.token = async () => {
      const given = await (typeof token === "function" ? token() : token);
      if (given === null || (typeof given === "string" && TOKEN.test(given))) return given;
      //# if cookiecutter.auth == "jwt"
      throw new TypeError("the token is not a valid subprotocol");
      //# else
      throw new TypeError("the token is not visible ASCII");
      //# endif
    };
    //# else
    this.token = async () => (typeof token === "function" ? token() : token);
    //# endif
    const { signal } = this.#listeners;
    for (const type of ["online", "offline", "pageshow", "pagehide", "visibilitychange"])
      globalThis.addEventListener?.(type, () => this.#notice(type), { signal });
    this.#timer = setTimeout(() => this.#connect());
  }

  /** Send a command, now or once online. @returns {Promise<Frame>} The answer or a RequestError. */
  async request(/** @type {Frame} */ command, timeout_ms = TIMEOUT_MS) {
    const answer = await new Promise((settle) => this.ask(command, settle, timeout_ms));
    if (answer.type === "error") throw new RequestError(answer);
    return answer;
  }

  /** Send a command, and call a function with its answer before any later frame is handled. */
  ask(/** @type {Frame} */ command, /** @type {Settle} */ onAnswer, timeout_ms = TIMEOUT_MS) {
    const id = `${++this.#lastId}`;
    const settle = (/** @type {Frame} */ answer) => {
      clearTimeout(timer);
      if (this.#requests.delete(id)) onAnswer(answer);
    };
    //# if cookiecutter.rooms
    const room = ["join", "leave"].includes(command.type) ? undefined : command.room;
    const request = { text: JSON.stringify({ ...command, id }), room, settle };
    //# else
    const request = { text: JSON.stringify({ ...command, id }), settle };
    //# endif
    this.#requests.set(id, request);
    const expire = () => settle(failure("timeout", "no answer in time", true));
    const timer = setTimeout(expire, Math.min(timeout_ms, MAX_TIMER_MS));
    if (this.status.state === "ended") settle(ENDED);
    else this.#transmit(request);
  }

  /** Return the milliseconds of a round trip. */
  async ping(sentAt = performance.now()) {
    await this.request({ type: "ping" });
    return performance.now() - sentAt;
  }

  //# if cookiecutter.rooms
  /** Join a room, now and after each reconnection. */
  room(/** @type {string} */ name, /** @type {import("./rooms.js").Handlers} */ handlers = {}) {
    if (this.status.state === "ended") throw new RequestError(ENDED);
    if (!name || typeof name !== "string")
      throw new RequestError(failure("bad_room", "a room needs a name"));
    if (this.rooms.has(name)) throw new Error(`${name} is joined already`);
    const room = new Room(this, name, handlers);
    this.rooms.set(name, room);
    this.joinRooms();
    return room;
  }

  /** Settle the requests that wait for a room. */
  refuse(/** @type {string} */ name, /** @type {Frame} */ answer) {
    this.#requests.forEach(({ room, sent, settle }) => room === name && !sent && settle(answer));
  }

  /**
   * Start queued joins, at most a quarter of a burst at once. If all are refused, the refusals stay
   * below the flood limit.
   */
  joinRooms() {
    if (!this.welcome) return;
    const { messages_per_s, burst_s } = this.welcome.limits;
    let free = Math.floor((messages_per_s * burst_s) / 4) || 1;
    this.rooms.forEach(({ stage }) => stage === "joining" && free--);
    this.rooms.forEach((room) => room.stage === "due" && free-- > 0 && room.join());
    this.#requests.forEach((request) => this.#transmit(request));
  }

  //# endif
  /** End the connection for good. */
  close() {
    if (this.status.state !== "ended") this.#end(NORMAL, "closed by the client");
  }

  #connect() {
    this.#drop();
    const turn = this.#turn;
    this.#attempt++;
    /** @type {(reason: unknown, code?: number) => unknown} */
    const fail = (reason, code) => turn === this.#turn && this.#lost(`${reason}`, code);
    this.#show("connecting");
    call(async () => {
      //# if cookiecutter.auth == "api_key"
      const why = "a page cannot send an API key: browsers set no headers on WebSockets";
      if (globalThis.document) return this.#end(UNAUTHORIZED, why);
      //# endif
      const token = await this.token();
      if (turn !== this.#turn) return;
      if (token === null) return this.#end(UNAUTHORIZED, "signed out");
      //# if cookiecutter.auth == "jwt"
      this.#socket = new WebSocket(this.url, ["ws.v1", `bearer.${token}`]);
      //# elif cookiecutter.auth == "ticket"
      this.url.searchParams.set("ticket", `${token}`);
      this.#socket = new WebSocket(this.url, "ws.v1");
      //# elif cookiecutter.auth == "api_key"
      const headers = { "X-API-Key": token };
      const options = { protocols: ["ws.v1"], headers };
      this.#socket = new WebSocket(this.url, /** @type {any} */ (options));
      //# else
      this.#socket = new WebSocket(this.url, "ws.v1");
      //# endif
      this.#timer = setTimeout(() => fail("no welcome in time"), TIMEOUT_MS);
      this.#socket.onmessage = ({ data }) =>
        turn === this.#turn && call(() => this.#receive(data), fail);
      this.#socket.onclose = ({ code, reason }) => fail(reason, code);
    }, fail);
  }

  #send(/** @type {string} */ text) {
    this.#socket?.send(text);
    queueMicrotask(() => call(() => this.onframe("out", text)));
  }

  #transmit(/** @type {Request} */ request) {
    const { text, settle } = request;
    if (request.sent || !this.welcome) return;
    //# if cookiecutter.rooms
    if ((this.rooms.get(request.room)?.stage ?? "in") !== "in") return; // until joined
    //# endif
    request.sent = true;
    const { message_bytes: limit } = this.welcome.limits;
    const isLarge = new TextEncoder().encode(text).length > limit;
    const hasLoneSurrogate = text.replaceAll("\\\\", "").includes("\\ud"); // escaped
    const error = isLarge ? failure("too_large", `more than ${limit} bytes`)
      : hasLoneSurrogate && failure("bad_request", "has a lone surrogate");
    if (error) queueMicrotask(() => settle(error));
    else this.#send(text);
  }

  #receive(/** @type {string} */ text) {
    this.#heardAt = performance.now();
    queueMicrotask(() => call(() => this.onframe("in", text))); // it may close the connection
    const frame = JSON.parse(text);
    check(frame, { type: "" });
    if (frame.type === "error") check(frame, { code: "", message: "", retry: true });
    //# if cookiecutter.rooms and cookiecutter.redis
    if (frame.type === "resync" && !frame.room) this.rooms.forEach((room) => room.receive(frame));
    //# endif
    if ("id" in frame) this.#requests.get(frame.id)?.settle(frame);
    else if (frame.type === "welcome") this.#begin(frame);
    else if (frame.type === "ping") this.#send('{"type":"pong"}');
    //# if cookiecutter.rooms
    else if (this.rooms.has(frame.room)) this.rooms.get(frame.room)?.receive(frame);
    // What the server has sent before it read a `leave` is dropped.
    else if (!this.left.has(frame.room)) call(() => this.onmessage(frame));
    //# else
    else call(() => this.onmessage(frame));
    //# endif
  }

  #begin(/** @type {Frame} */ welcome) {
    check(welcome.limits, { message_bytes: 0 });
    check(welcome.heartbeat ?? HEARTBEAT, HEARTBEAT);
    if (welcome.expires_at !== null) check(welcome, { expires_at: 0 });
    this.welcome = welcome;
    this.#openedAt = this.#heardAt;
    this.#watch();
    //# if cookiecutter.auth == "jwt"
    this.#refreshLater(welcome.expires_at);
    //# endif
    //# if cookiecutter.rooms
    this.joinRooms();
    //# else
    this.#requests.forEach((request) => this.#transmit(request));
    //# endif
    this.#show("online");
  }

  /** Send a ping after a silence, or now. A late timer does not prove that the server is gone. */
  #watch(asks = false) {
    const { interval_s, timeout_s } = this.welcome?.heartbeat ?? HEARTBEAT;
    const since = asks ? performance.now() : this.#heardAt;
    const dueAt = since + 1_000 * (asks ? timeout_s : interval_s);
    if (asks) this.ping().catch(() => {});
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (globalThis.document?.hidden) return; // #notice() will ask
      // With a coarse clock, ping and pong may have the same time.
      if (asks ? this.#heardAt >= since : this.#heardAt > since) this.#watch();
      else if (!asks || performance.now() > dueAt + LATE_MS) this.#watch(true);
      else this.#lost("the server does not answer");
    }, dueAt - performance.now());
  }

  /** The page is shown or left, or the network has changed. */
  #notice(/** @type {string} */ type) {
    // A page with an open WebSocket would not get into the back-forward cache.
    if (type === "pagehide") return this.#lost("page left");
    if (globalThis.document?.hidden) return;
    // A `token` function may wait for an answer that was lost with the network.
    if (this.status.state === "offline" || (type === "online" && !this.#socket)) this.#connect();
    else if (this.welcome) this.#watch(true);
  }

  //# if cookiecutter.auth == "jwt"
  /**
   * Refresh after three quarters of the time, and if that fails, of what is left. By a clock that
   * is ahead, little is left: the shortest delay doubles.
   */
  #refreshLater(/** @type {any} */ expiry, turn = this.#turn, least_ms = TIMEOUT_MS) {
    if (!expiry || turn !== this.#turn) return;
    const left_ms = 1_000 * expiry - Date.now();
    this.#refreshTimer = setTimeout(async () => {
      try {
        const token = await this.token();
        if (turn !== this.#turn) return;
        if (token === null) return this.#end(UNAUTHORIZED, "signed out");
        expiry = Number((await this.request({ type: "refresh", token })).expires_at) || expiry;
      } catch {}
      this.#refreshLater(expiry, turn, left_ms > TIMEOUT_MS ? TIMEOUT_MS : 2 * least_ms);
    }, Math.min(Math.max(least_ms, 0.75 * left_ms), MAX_TIMER_MS));
  }

  //# endif
  #drop() {
    this.#turn++;
    clearTimeout(this.#timer);
    //# if cookiecutter.auth == "jwt"
    clearTimeout(this.#refreshTimer);
    //# endif
    this.#socket?.close();
    this.#socket = this.welcome = null;
    //# if cookiecutter.rooms
    this.rooms.forEach((room) => room.interrupt());
    this.left.clear();
    //# endif
    const lost = failure("disconnected", "the command may have been carried out", true);
    this.#requests.forEach(({ sent, settle }) => sent && settle(lost));
  }

  #lost(/** @type {string} */ reason, code = ABNORMAL) {
    if (this.welcome && performance.now() - this.#openedAt > LONGEST_PAUSE_MS) this.#attempt = 1;
    if (FINAL.includes(code) || code >= 4500) return this.#end(code, reason);
    this.#drop();
    const pause_ms = pause(this.#attempt);
    this.#timer = setTimeout(() => this.#connect(), pause_ms);
    this.#show("offline", { code, reason, pause_ms });
  }

  #end(/** @type {number} */ code, /** @type {string} */ reason) {
    this.#drop();
    this.#listeners.abort();
    this.#show("ended", { code, reason });
    this.#requests.forEach(({ settle }) => settle(failure("ended", reason)));
  }

  #show(/** @type {State} */ state, /** @type {Cause} */ cause = {}) {
    this.status = { state, attempt: this.#attempt, ...cause };
    call(() => this.onstatus(this.status));
  }
}
