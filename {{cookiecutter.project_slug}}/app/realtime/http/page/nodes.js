// The two nodes of `make run`: each link that it prints names the port of the other node.
import { element } from "./element.js";

const LAST_PORT = 65_535;
const HTTP_PORT = "80"; // no address shows it

/** Return whether a text is the number of a port. */
export const isPort = (text) => /^[1-9]\d{0,4}$/.test(text) && Number(text) <= LAST_PORT;

/** Return which node this is, and a link to the page on the other one. */
export function showNodes(port) {
  const own = location.port || HTTP_PORT;
  const other = new URL(location.pathname, location.origin);
  other.port = port;
  other.hash = `node=${own}`;
  return element("p", { className: "faint" }, `This is the node on port ${own}. `,
    element("a", { href: other, target: "_blank" }, `Open the node on port ${port}`),
    " beside it: messages sent on one reach the other.");
}
