/** Return an element with these properties and children; a string becomes text, never HTML. */
export function element(tag, properties, ...children) {
  const made = Object.assign(/** @type {any} */ (document.createElement(tag)), properties);
  made.append(...children.flat(Infinity));
  return made;
}

/** Return a user's text; if it is written from right to left, what is beside it stays in order. */
export const isolated = (text) => element("bdi", {}, text);
