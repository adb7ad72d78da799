/**
 * Rooms of the client: each message is handed over once and in order, or `state()` is called.
 *   const room = ws.room("orders", {
 *     state: async ({ signal }) => render(await getOrders(signal)),
 *     message: (data, { from }) => apply(data),
 *   });
 *   await room.publish({ text: "hi" }, { echo: true });
 */
import { RequestError, call, check, pause } from "./client.js";

/**
 * @typedef {import("./client.js").Frame} Frame
 * @typedef {(user: string, frame: Frame) => void} OnMember
 * @typedef {object} Handlers
 * @property {(how: { signal: AbortSignal }) => unknown} [state] Loads what you keep of the room: at
 *   first, and whenever messages may be missing. They are held back until it is done; if it fails,
 *   it is called again. Aborted when the connection is lost or the room is left.
 * @property {() => void} [gap] Without `state`: messages may be missing here.
 * @property {number} [last] Number of recent messages to hand over after the first join.
 * @property {(data: any, frame: Frame) => void} [message]
 * @property {any} [info] What members see of the user: in `joined`, `updated` and `presence`.
 * @property {OnMember} [joined]
 * @property {OnMember} [updated]
 * @property {OnMember} [left]
 * @property {() => void} [rejoined] The room was joined again, for example after a lost connection.
 *   Events may have been missed: ask for `presence()` again.
 * @property {(frame: Frame) => void} [frame] Takes the frames of your own that name the room.
 * @property {(error: import("./client.js").RequestError) => void} [refused] The server refuses a
 *   join: the room is left.
 * @property {(reason: string | null, frame: Frame) => void} [evicted] The server has taken the user
 *   out of the room: it is left.
 */

const ABORTED_MS = 10_000; // for `state()` to end
const MAX_HELD = 10_000; // messages; beyond it, they are dropped, which is a gap

/**
 * Wait. Unlike that of `setTimeout`, this timer does not keep the process of Node.js running.
 * @type {(ms: number) => Promise<unknown>}
 */
const sleep = (ms) => new Promise((end) => { AbortSignal.timeout(Math.round(ms)).onabort = end; });

/** Return an info as JSON, or throw. */
const json = (/** @type {any} */ info) => JSON.stringify(info ?? null);

/** The field that a handler gets first, by the type of the frame. @type {Record<string, any>} */
const SUBJECTS = {
  __proto__: null, message: "data",
  joined: "user", updated: "user", left: "user", evicted: "reason",
};

//# if cookiecutter.redis
const RESYNC_MS = 1_000;

//# endif
/** A room that the connection joins whenever it is online. */
export class Room {
  /** Of the last message that was handed over. @type { { epoch: string, offset: number } | null} */
  position = null;
  #held = /** @type {Frame[] | null} */ ([]); // until a join is answered and `state()` is done
  /** Due to join, in turn with other rooms; paused after a refusal. */
  stage = /** @type {"due" | "joining" | "paused" | "in"} */ ("due");
  /** Of the last join: what belongs to an older one is ignored. Aborted until a join is sent. */
  #visit = new AbortController();
  #mayBeIn = false; // on this WebSocket; also while a join is on its way
  #attempt = 1;
  #joins = 0; // that were answered
  #accepted = /** @type {any} */ (null); // the last info that the server has taken
  #change = /** @type { { info: any } | null} */ (null); // until the server has taken it
  #gaps = 0; // for which `state()` is not loaded yet
  #loading = /** @type {unknown} */ (null); // what `state()` has returned, until that ends

  /** @param {import("./client.js").Connection} ws */
  constructor(ws, /** @type {string} */ name, /** @type {Handlers} */ on) {
    this.ws = ws;
    this.name = name;
    this.on = /** @type {Handlers & Record<string, any>} */ (on);
    this.#accepted = JSON.parse(json(on.info)); // a copy, since the page may change it
    this.#visit.abort();
  }

  /**
   * Send to the members; without `echo` to the others only, with `keep: false` not stored.
   * Repeated with the same `key`, it is sent once.
   * @param {any} data
   * @param { { echo?: boolean, keep?: boolean, key?: string }} options
   */
  publish(data, options = {}) {
    return this.ws.request({ type: "publish", room: this.name, data, ...options });
  }

  /** Ask for `members` and their `total`. */
  presence() {
    return this.ws.request({ type: "presence", room: this.name });
  }

  /** The info that the next join sends; null after another tab of the user has set one. */
  get info() { return this.#change ? this.#change.info : this.#accepted; }

  /** Change what members see of the user: now, or when the room is joined. */
  async setInfo(/** @type {any} */ given) {
    const info = JSON.parse(json(given));
    if (info === null) return;
    const change = (this.#change = { info });
    // A join without a position must not overtake that of the room.
    const isDue = () => this.stage === "in" && this.#change === change;
    const settle = () => { if (this.#change === change) this.#change = null; };
    const ok = await this.#ask({ type: "join", room: this.name, info }, isDue)
      .catch((error) => { settle(); throw error; }); // the last accepted info is back
    if (!ok) return; // the next join sends it
    this.#accepted = info;
    settle();
  }

  /** Leave for good. @returns {Promise<Frame | undefined>} The answer, if a `leave` was sent. */
  async leave() {
    const { ws, ws: { left }, name: room } = this;
    if (ws.rooms.get(room) !== this) return;
    ws.rooms.delete(room);
    if (this.#mayBeIn) left.set(room, this);
    this.interrupt();
    ws.joinRooms();
    const isDue = () => left.get(room) === this;
    return this.#ask({ type: "leave", room }, isDue).finally(() => isDue() && left.delete(room));
  }

  /** Send a command, again while it is due and refused for now. */
  async #ask(/** @type {Frame} */ command, /** @type {() => boolean} */ isDue) {
    for (let attempt = 1; isDue(); await sleep(pause(attempt++))) {
      try { return await this.ws.request(command); }
      catch (/** @type {any} */ error) { if (!error.retry) throw error; }
    }
  }

  /** Called by the connection when it is lost; the next join is from `position` on. */
  interrupt() {
    this.#visit.abort();
    this.#mayBeIn = false;
    this.#held = [];
    this.stage = "due";
  }

  /** Called by the connection when it is the turn of this room. */
  join() {
    const { ws, name: room, info, position: since, on: { last } } = this;
    const mightBeIn = ws.left.delete(room) || this.#mayBeIn;
    this.#mayBeIn = true;
    const { signal } = (this.#visit = new AbortController());
    this.stage = "joining";
    ws.ask({ type: "join", room, info, ...(since ? { since } : { last }) }, (answer) => {
      if (signal.aborted) return;
      const change = this.#change;
      if (answer.type !== "error") {
        check(answer, { epoch: "", offset: 0, replayed: 0 });
        if (!since) check(answer, { recovered: null });
        this.stage = "in";
        this.#attempt = 1;
        if (change) [this.#accepted, this.#change] = [info, null];
        ws.joinRooms(); // requests that have waited go before those of handlers
        if (change && change.info !== info) this.setInfo(change.info).catch(() => {});
        this.#onJoin(answer, signal);
        if (this.#joins++ && !signal.aborted) call(() => this.on.rejoined?.());
      } else if (answer.retry || change?.info === info) {
        if (!answer.retry) this.#change = null; // joins go on with the last accepted info
        if (answer.code === "rate_limited") this.#mayBeIn = mightBeIn;
        else this.stage = "paused"; // others may join
        this.#joinLater(pause(this.#attempt++));
        ws.joinRooms();
      } else {
        ws.refuse(room, answer);
        this.#mayBeIn = mightBeIn; // a refused join does not end an earlier one
        this.leave().catch(() => {});
        call(() => this.on.refused?.(new RequestError(answer)));
      }
    });
  }

  /** Join after a pause; until then, hold messages, and ignore what belongs to the former join. */
  async #joinLater(/** @type {number} */ pause_ms) {
    if (this.stage === "due") return;
    this.#visit.abort();
    const { signal } = (this.#visit = new AbortController());
    this.#held ??= [];
    await sleep(pause_ms);
    if (signal.aborted) return;
    this.stage = "due";
    this.ws.joinRooms();
  }

  /** Go on from the position of the answer, as its `recovered` says. */
  async #onJoin(/** @type {Frame} */ ok, /** @type {AbortSignal} */ signal) {
    // If messages are replayed, held ones belong to a former membership: drop them.
    const before = ok.replayed ? [] : /** @type {Frame[]} */ (this.#held);
    if (!ok.recovered) this.#lose();
    // The state has what came before, except ephemeral messages.
    this.#held = this.#gaps ? before.filter(({ offset }) => offset === null) : [];
    // Until the state is loaded, the position stays: after a lost connection, it is loaded again.
    if (this.#gaps) await this.#load(signal);
    else before.forEach((frame) => (ok.recovered ? this.#advance(frame) : this.#hand(frame)));
    if (signal.aborted) return;
    const least = ok.recovered ? (this.position?.offset ?? 0) : 0;
    this.position = { epoch: ok.epoch, offset: Math.max(ok.offset - ok.replayed, least) };
    const held = this.#held;
    this.#held = null;
    held.forEach((frame) => this.#advance(frame));
  }

  /** Messages may be missing: have the state loaded, or call `gap`. */
  #lose() {
    if (this.on.state) this.#gaps++;
    else if (this.position) call(() => this.on.gap?.());
  }

  /** Call `state()` until it has succeeded after the last gap. An aborted call may end first. */
  async #load(/** @type {AbortSignal} */ signal) {
    if (this.#loading) await Promise.race([this.#loading, sleep(ABORTED_MS)]).catch(() => {});
    for (let attempt = 1; this.#gaps && !signal.aborted; attempt++) {
      const gaps = this.#gaps;
      try {
        await (this.#loading = this.on.state?.({ signal }));
        if (!signal.aborted) this.#gaps -= gaps;
      } catch (error) {
        if (signal.aborted) return;
        call(() => Promise.reject(error));
        await sleep(pause(attempt));
      }
      if (!signal.aborted) this.#loading = null; // it has ended, and there is no later one
    }
  }

  /** Called by the connection with each frame of the room. */
  receive(/** @type {Frame} */ frame) {
    if (frame.type === "message" && frame.offset !== null) check(frame, { offset: 0 });
    const isOwn = frame.type in SUBJECTS && frame.user === this.ws.welcome?.user;
    if (isOwn && !["null", json(this.#accepted)].includes(json(frame.info))) this.#accepted = null;
    if (frame.type === "evicted") this.leave().catch(() => {}); // a join may be on its way
    //# if cookiecutter.redis
    if (frame.type === "resync") this.#joinLater(Math.random() * RESYNC_MS);
    else if (frame.type !== "message") this.#hand(frame);
    //# else
    if (frame.type !== "message") this.#hand(frame);
    //# endif
    else if (!this.#held) this.#advance(frame);
    else if (this.#held.push(frame) > MAX_HELD) {
      this.#held = [];
      this.#lose();
    }
  }

  /** Hand over an ephemeral message, or one that is newer than the position, which moves there. */
  #advance(/** @type {Frame} */ frame) {
    if (frame.offset !== null) {
      if (!this.position || frame.offset <= this.position.offset) return;
      this.position = { ...this.position, offset: frame.offset };
    }
    this.#hand(frame);
  }

  #hand(/** @type {Frame} */ frame) {
    if (this.#visit.signal.aborted && frame.type !== "evicted") return; // a handler has left
    const subject = SUBJECTS[frame.type];
    call(() => (subject ? this.on[frame.type]?.(frame[subject], frame) : this.on.frame?.(frame)));
  }
}
