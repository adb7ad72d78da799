// Shows ../../asyncapi.json.
import { element } from "../../page/element.js";

const code = (text) => element("code", {}, String(text));
const heading = (text) => element("h2", {}, text);
const yes = (answer) => (answer ? "yes" : "no");
const nameIn = (reference) => reference.$ref.split("/").pop();
const between = (parts, word) => parts.flatMap((part, i) => (i ? [word, part] : [part]));

/** Return a text whose words in single or double backticks are code. */
const prose = (text = "") =>
  text.split(/`+([^`]+)`+/).map((part, i) => (i % 2 ? code(part) : part));

const paragraphs = (text = "") =>
  text.split(/\n\s*\n/).map((paragraph) => element("p", {}, prose(paragraph)));

function table(caption, columns, rows) {
  if (!rows.length) return [];
  const head = columns.map((column) => element("th", { scope: "col" }, column));
  const body = rows.map(([first, ...others]) =>
    element("tr", {}, element("th", { scope: "row" }, first),
      others.map((other) => element("td", {}, other))));
  return element("div", { className: "table", tabIndex: 0 },
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)));
}

const BOUNDS = /^(min|max|exclusive|multipleOf$|pattern$|format$)/;
const REFERENCE = /"#\/components\/schemas\/([^"]+)"/g;

/** Return the names of the types that fields refer to. */
const typesIn = (schemas, messages) => {
  const names = [...JSON.stringify(schemas).matchAll(REFERENCE)].map(([, name]) => name);
  return [...new Set(names)].filter((name) => !messages[name] && name !== "JsonValue").sort();
};

/** Return what a value must be: `string, maxLength 64`, `Position or null`. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = nameIn(schema);
    return name === "JsonValue" ? "any JSON" : element("a", { href: `#${name}` }, name);
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return between(choices.map(typeOf), " or ");
  const values = "const" in schema ? [schema.const] : schema.enum;
  if (values) return between(values.map((value) => code(JSON.stringify(value))), " or ");
  if (schema.prefixItems) {
    const others = schema.items ? [[typeOf(schema.items), " …"]] : [];
    return ["[", between([...schema.prefixItems.map(typeOf), ...others], ", "), "]"];
  }
  const bounds = Object.entries(schema).filter(([key]) => BOUNDS.test(key));
  const words = bounds.map(([key, value]) => [`, ${key} `, code(value)]);
  if (schema.type === "array") return ["list of ", typeOf(schema.items ?? {}), words];
  if (typeof schema.additionalProperties === "object")
    return ["object of ", typeOf(schema.additionalProperties), words];
  return [schema.type ?? "any JSON", words];
}

/** Return a table of a schema's fields, except `type` and `id`, which all frames share. */
function fields(caption, { properties = {}, required = [] }) {
  const own = Object.entries(properties).filter(([name]) => !["type", "id"].includes(name));
  const defaultOf = (name, { default: value = null }) => {
    if (required.includes(name)) return "";
    return value === null ? ", optional" : [", default ", code(JSON.stringify(value))];
  };
  const rows = own.map(([name, field]) => [
    code(name),
    [typeOf(field), defaultOf(name, field),
      field.description ? [". ", prose(field.description)] : ""],
  ]);
  return table(caption, ["field", "value"], rows);
}

/** Return the page's content for a document. */
function contentOf({ info, servers, channels, operations, components }) {
  const { schemas, securitySchemes } = components;
  const { address, messages, "x-limits": limits, "x-close-codes": closes } = channels.connection;
  const [server] = Object.values(servers);
  const typeNamed = (name) => messages[name].name;
  const isError = (name) => typeNamed(name) === "error";
  const error = Object.keys(messages).find(isError);
  const names = (action) =>
    Object.keys(operations).filter((name) => operations[name].action === action);
  const title = (name) => {
    const namesakes = names("send").filter((each) => typeNamed(each) === typeNamed(name));
    return namesakes.length > 1 ? `${typeNamed(name)} (${name})` : typeNamed(name);
  };
  const section = (name, title, ...content) =>
    element("section", { id: name }, element("h3", {}, title), content);
  const links = (ariaLabel, all) => element("nav", { ariaLabel },
    all.map((name) => element("a", { href: `#${name}` }, title(name))));

  const answer = (name) => [
    element("p", {}, "Answer ", code(typeNamed(name)), ": ", prose(schemas[name].description)),
    fields(`Fields of ${typeNamed(name)}`, schemas[name]),
  ];
  const command = (name) => section(name, typeNamed(name),
    paragraphs(operations[name].description), fields(`Fields of ${typeNamed(name)}`, schemas[name]),
    operations[name].reply.messages.map(nameIn).filter((reply) => !isError(reply)).map(answer));
  const frame = (name) => section(name, title(name),
    paragraphs(schemas[name].description), fields(`Fields of ${typeNamed(name)}`, schemas[name]));
  const credentials = ({ scheme, in: place, name: key, description }) =>
    [code(scheme ? `Authorization: ${scheme}` : `${place} ${key}`), prose(description)];
  const types = typesIn(schemas, messages);

  return [
    element("p", {}, prose(info.description), ` Version ${info.version}.`),
    heading("Connect"),
    element("p", {}, code(`${server.protocol}://${server.host}${server.pathname}${address}`)),
    table("Credentials", ["place", "meaning"], Object.values(securitySchemes).map(credentials)),
    table("Limits", ["limit", "value"], Object.entries(limits).map(([name, n]) => [code(name), n])),
    heading("Commands"),
    element("p", {}, prose("A client sends JSON objects with a `type`. A command with an `id` gets "
      + "an answer with the same `id`. Every command may be answered by an "),
      element("a", { href: `#${error}` }, "error"), "."),
    links("Commands", names("receive")), names("receive").map(command),
    heading("Frames of the server"), links("Frames of the server", names("send")),
    names("send").map(frame),
    heading("Errors"), frame(error),
    table("Error codes", ["code", "retry", "meaning"], schemas[error].properties.code.oneOf.map(
      (each) => [code(each.const), yes(each["x-retry"]), prose(each.description)])),
    heading("Close codes"),
    table("Close codes", ["code", "reconnect", "reason"], Object.entries(closes).map(
      ([number, close]) => [code(number), yes(close.reconnect), close.reason])),
    types.length ? heading("Types") : [],
    types.map((name) => section(name, name, paragraphs(schemas[name].description),
      schemas[name].properties ? fields(`Fields of ${name}`, schemas[name])
        : element("p", {}, schemas[name].enum ? "One of " : "", typeOf(schemas[name])))),
  ].flat(Infinity);
}

const page = document.querySelector("main");
try {
  const response = await fetch("../../asyncapi.json");
  if (!response.ok) throw new Error(`asyncapi.json: ${response.status} ${response.statusText}`);
  page.replaceChildren(...contentOf(await response.json()));
} catch (failure) {
  page.replaceChildren(element("p", { role: "alert" }, `Nothing to show: ${failure.message}`));
}
page.removeAttribute("aria-busy");
