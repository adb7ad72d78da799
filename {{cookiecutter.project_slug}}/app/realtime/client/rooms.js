/**
 * Rooms of the client: each message is handed over once and in order, or `state()` is called.
 *   const room = ws.room("orders", {
 *     state: async () => render(await getOrders()),
 *     message: (data, { from }) => apply(data),
 *   });
 *   await room.publish({ text: "hi" }, { echo: true });
 */
import { call, pause } from "./client.js";

/**
 * @typedef {import("./client.js").Frame} Frame
 * @typedef {(user: string, frame: Frame) => void} OnMember
 * @typedef {object} Handlers
 * @property {() => unknown} [state] Loads what the page shows of the room: at first, and whenever
 *   messages may be missing. They are held back until it is done; if it fails, it is called again.
 * @property {number} [last] How many earlier messages to hand over at first.
 * @property {(data: any, frame: Frame) => void} [message]
 * @property {any} [info] What members see of the user: in `joined`, `updated` and `presence`.
 * @property {OnMember} [joined]
 * @property {OnMember} [updated]
 * @property {OnMember} [left]
 * @property {(frame: Frame) => void} [frame] Takes the frames of your own that name the room.
 * @property {(error: import("./client.js").RequestError) => void} [refused] It cannot be joined.
 * @property {(reason: string | null, frame: Frame) => void} [evicted] The server ended the visit.
 */

const MAX_HELD = 10_000;

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
  #visit = 0; // of the present join: what belongs to an older one is ignored
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

  /** Change what members see of the user. */
  setInfo(/** @type {any} */ info) {
    this.info = info;
    return this.connection.request({ type: "join", room: this.name, info });
  }

  /** Leave for good. */
  async leave() {
    this.interrupt();
    this.connection.rooms.delete(this.name);
    if (this.connection.welcome) await this.connection.request({ type: "leave", room: this.name });
  }

  /** Called by the connection when it is lost; the next join is from `position` on. */
  interrupt() {
    this.#visit++;
    this.#held = null;
  }

  /** Called by the connection to join, and when a member may have missed messages. */
  async enter(attempt = 1) {
    const visit = ++this.#visit;
    const { name: room, info, position: since } = this;
    const from = since ? { since } : { last: this.handlers.last };
    this.#held ??= [];
    try {
      const ok = await this.connection.request({ type: "join", room, info, ...from });
      if (visit === this.#visit) await this.#arrive(ok, visit);
    } catch (/** @type {any} */ error) {
      const again = () => visit === this.#visit && this.enter(attempt + 1);
      if (error.retry) setTimeout(again, pause(attempt));
      else if (visit === this.#visit) {
        this.#held = null;
        call(() => this.handlers.refused?.(error));
      }
    }
  }

  //# if cookiecutter.redis
  /** Called by the connection to join again, at another moment than the other clients. */
  resync() {
    const visit = ++this.#visit;
    this.#held ??= [];
    setTimeout(() => visit === this.#visit && this.enter(), Math.random() * RESYNC_MS);
  }

  //# endif
  async #arrive(/** @type {Frame} */ ok, /** @type {number} */ visit) {
    const before = this.#held?.splice(0) ?? [];
    if (!ok.recovered) {
      // Until the state is loaded, the position stays: after a lost connection, it is loaded again.
      if (this.handlers.state) await this.#load(visit);
      else if (!ok.replayed) before.forEach((frame) => this.#hand(frame));
      if (visit !== this.#visit) return;
      this.position = { epoch: ok.epoch, offset: ok.offset - ok.replayed };
    } else if (!ok.replayed) {
      before.forEach((frame) => this.#deliver(frame));
      this.position = { epoch: ok.epoch, offset: Math.max(ok.offset, this.position?.offset ?? 0) };
    }
    const held = this.#held ?? [];
    this.#held = null;
    held.forEach((frame) => this.#deliver(frame));
    if (held.length < MAX_HELD) return;
    // What came after them is missing; a new member gets it from the history.
    this.connection.request({ type: "leave", room: this.name }).catch(() => {});
    this.enter();
  }

  /** Call `state()` until it succeeds, never twice at a time. */
  async #load(/** @type {number} */ visit, attempt = 1) {
    const load = () => (visit === this.#visit ? this.handlers.state?.() : undefined);
    this.#loading = this.#loading.catch(() => {}).then(load);
    try {
      await this.#loading;
    } catch (error) {
      call(() => Promise.reject(error));
      await new Promise((resolve) => setTimeout(resolve, pause(attempt)));
      if (visit === this.#visit) await this.#load(visit, attempt + 1);
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
    else if (!this.#held) this.#deliver(frame);
    else if (this.#held.length < MAX_HELD) this.#held.push(frame);
  }

  #deliver(/** @type {Frame} */ frame) {
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
