// The two nodes of `make run`: each link that it prints names the port of the other node.
import { element } from "./element.js";

/** Return which node this is, and a link to the page on the other one. */
export function showNodes(port) {
  const other = new URL(location.pathname, location.origin);
  other.port = port;
  other.hash = `node=${location.port}`;
  return element("p", { className: "faint" }, `This is the node on port ${location.port}. `,
    element("a", { href: other, target: "_blank" }, `Open the node on port ${other.port}`),
    " beside it: messages sent on one reach the other.");
}
