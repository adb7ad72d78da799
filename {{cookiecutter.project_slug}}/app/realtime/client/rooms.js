/**
 * Rooms of the client: each message is handed over once and in order, or `state()` is called.
 *   const room = ws.room("orders", {
 *     state: async () => render(await getOrders()),
 *     message: (data, { from }) => apply(data),
 *   });
 *   await room.publish({ text: "hi" }, { echo: true });
 */
import { RequestError, call, pause } from "./client.js";

/**
 * @typedef {import("./client.js").Frame} Frame
 * @typedef {(user: string, frame: Frame) => void} OnMember
 * @typedef {object} Handlers
 * @property {() => unknown} [state] Loads what you keep of the room: at first, and whenever
 *   messages may be missing. They are held back until it is done; if it fails, it is called again.
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

const MAX_HELD = 10_000; // messages; beyond it, they are dropped, which is a gap
const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The field that a handler gets first, by the type of the frame. @type {Map<string, string>} */
const SUBJECTS = new Map(Object.entries({
  message: "data", joined: "user", updated: "user", left: "user", evicted: "reason",
}));

//# if cookiecutter.redis
const RESYNC_MS = 1_000;

//# endif
/** A room that the connection joins whenever it is online. */
export class Room {
  /** Of the last message that was handed over. @type { { epoch: string, offset: number } | null} */
  position = null;
  #held = /** @type {Frame[] | null} */ (null); // until a join is answered and `state()` is done
  #visit = 0; // counts joins: what belongs to an older one is ignored
  #isJoining = true; // until a join is answered
  #joins = 0; // that were answered
  #gaps = 0; // for which `state()` is not loaded yet
  #loading = /** @type {Promise<unknown>} */ (Promise.resolve());

  /** @param {import("./client.js").Connection} connection */
  constructor(connection, /** @type {string} */ name, /** @type {Handlers} */ handlers) {
    this.connection = connection;
    this.name = name;
    this.handlers = handlers;
    this.info = handlers.info;
  }

  /**
   * Send to the members; without `echo` to the others only, with `keep: false` not stored.
   * Repeated with the same `key`, it is sent once.
   * @param {any} data
   * @param { { echo?: boolean, keep?: boolean, key?: string }} options
   */
  publish(data, options = {}) {
    return this.connection.request({ type: "publish", room: this.name, data, ...options });
  }

  /** Ask for `members` and their `total`. */
  presence() {
    return this.connection.request({ type: "presence", room: this.name });
  }

  /** Change what members see of the user: now, or when the room is joined. */
  async setInfo(/** @type {any} */ info) {
    const former = this.info;
    this.info = info;
    if (this.#isJoining) return; // a join without a position must not overtake it
    await this.connection.request({ type: "join", room: this.name, info }).catch((error) => {
      if (!error.retry && this.info === info) this.info = former; // or the next join is refused
      throw error;
    });
  }

  /** Leave for good. @returns {Promise<Frame | undefined>} The answer, if a `leave` was sent. */
  async leave() {
    const { connection, name } = this;
    const { left, rooms } = connection;
    if (rooms.get(name) !== this) return;
    rooms.delete(name);
    this.interrupt();
    if (connection.welcome) left.set(name, this);
    for (let attempt = 1; left.get(name) === this; await sleep(pause(attempt++))) {
      const leaving = connection.request({ type: "leave", room: name });
      const answer = await leaving.catch((/** @type {any} */ error) => error);
      if (answer.retry) continue;
      if (left.get(name) === this) left.delete(name);
      if (answer instanceof Error) throw answer;
      return answer;
    }
  }

  /** Called by the connection when it is lost; the next join is from `position` on. */
  interrupt() {
    this.#visit++;
    this.#held = null;
    this.#isJoining = true;
  }

  /** Called by the connection to join, and when a member may have missed messages. */
  enter(attempt = 1) {
    const visit = ++this.#visit;
    const { name: room, info, position: since } = this;
    const from = since ? { since } : { last: this.handlers.last };
    this.#held ??= [];
    this.#isJoining = true;
    this.connection.ask({ type: "join", room, info, ...from }, (answer) => {
      if (visit !== this.#visit) return;
      const again = () => visit === this.#visit && this.enter(attempt + 1);
      if (answer.type === "error" && answer.retry) return setTimeout(again, pause(attempt));
      if (answer.type === "error") {
        this.leave().catch(() => {}); // a refused join does not end an earlier one
        return call(() => this.handlers.refused?.(new RequestError(answer)));
      }
      this.#isJoining = false;
      if (info !== this.info) this.setInfo(this.info).catch(() => {});
      this.#onJoin(answer, visit);
      if (this.#joins++) call(() => this.handlers.rejoined?.());
    });
  }

  //# if cookiecutter.redis
  /** Called by the connection to join again, at another moment than the other clients. */
  resync() {
    const visit = ++this.#visit;
    this.#held ??= [];
    setTimeout(() => visit === this.#visit && this.enter(), Math.random() * RESYNC_MS);
  }

  //# endif
  /** Go on from the position of the answer, as its `recovered` says. */
  async #onJoin(/** @type {Frame} */ ok, /** @type {number} */ visit) {
    const before = this.#held?.splice(0) ?? [];
    if (!ok.recovered) this.#lose();
    if (!ok.replayed && !this.#gaps)
      before.forEach((frame) => (ok.recovered ? this.#advance(frame) : this.#hand(frame)));
    // Until the state is loaded, the position stays: after a lost connection, it is loaded again.
    if (this.#gaps) await this.#load(visit);
    if (visit !== this.#visit) return;
    if (!ok.recovered || !ok.replayed) {
      const least = (ok.recovered && this.position?.offset) || 0;
      this.position = { epoch: ok.epoch, offset: Math.max(ok.offset - ok.replayed, least) };
    }
    const held = this.#held ?? [];
    this.#held = null;
    held.forEach((frame) => this.#advance(frame));
  }

  /** Messages may be missing: have the state loaded, or call `gap`. */
  #lose() {
    if (this.handlers.state) this.#gaps++;
    else if (this.position) call(() => this.handlers.gap?.());
  }

  /** Call `state()` until it has succeeded after the last gap, never twice at a time. */
  async #load(/** @type {number} */ visit) {
    const load = () => (visit === this.#visit ? this.handlers.state?.() : undefined);
    for (let attempt = 1; this.#gaps && visit === this.#visit; attempt++) {
      const gaps = this.#gaps;
      this.#loading = this.#loading.catch(() => {}).then(load);
      try {
        await this.#loading;
        if (visit === this.#visit) this.#gaps -= gaps;
      } catch (error) {
        call(() => Promise.reject(error));
        await sleep(pause(attempt));
      }
    }
  }

  /** Called by the connection with each frame of the room. */
  receive(/** @type {Frame} */ frame) {
    if (frame.type === "evicted") this.leave().catch(() => {}); // a join may be on its way
    //# if cookiecutter.redis
    if (frame.type === "resync") this.resync();
    else if (frame.type !== "message" || frame.offset === null) this.#hand(frame);
    //# else
    if (frame.type !== "message" || frame.offset === null) this.#hand(frame);
    //# endif
    else if (!this.#held) this.#advance(frame);
    else if (this.#held.push(frame) > MAX_HELD) {
      this.#held = [];
      this.#lose();
    }
  }

  /** Hand over a message that is newer than the position, and move the position there. */
  #advance(/** @type {Frame} */ frame) {
    if (!this.position || frame.offset <= this.position.offset) return;
    this.position = { ...this.position, offset: frame.offset };
    this.#hand(frame);
  }

  #hand(/** @type {Frame} */ frame) {
    const handlers = /** @type {Record<string, any>} */ (this.handlers);
    const subject = SUBJECTS.get(frame.type);
    call(() => (subject ? handlers[frame.type]?.(frame[subject], frame) : handlers.frame?.(frame)));
  }
}
