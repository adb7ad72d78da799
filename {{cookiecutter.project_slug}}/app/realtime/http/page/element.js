/** Return an element with these properties and children; a string becomes text, never HTML. */
export function element(tag, properties, ...children) {
  const made = Object.assign(/** @type {any} */ (document.createElement(tag)), properties);
  made.append(...children.flat(Infinity));
  return made;
}

/** Return a text of a user, whose direction does not change the order of what is beside it. */
export const isolated = (text) => element("bdi", {}, text);
