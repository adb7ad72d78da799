// Shows ../../asyncapi.json. All text is set as text, never as HTML.

const page = document.querySelector("main");

/** Return an element with these children; a string becomes text. */
function element(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.flat());
  return made;
}

const code = (text) => element("code", {}, String(text));

/** Return text whose `words` in single or double backticks are code. */
function prose(text) {
  const parts = text.split(/(`+)(.+?)\1/s);
  return parts.flatMap((part, i) => (i % 3 === 0 ? part : i % 3 === 2 ? code(part) : []));
}

const paragraphs = (text = "") => text.split(/\n\s*\n/).filter(Boolean).map((part) => element("p", {}, prose(part)));

function table(caption, heads, rows) {
  const cell = (content, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, content);
  const head = element("thead", {}, element("tr", {}, heads.map((each) => element("th", { scope: "col" }, each))));
  const body = element("tbody", {}, rows.map((row) => element("tr", {}, row.map(cell))));
  return element("div", { className: "table", tabIndex: 0 }, element("table", {}, element("caption", {}, caption), head, body));
}

const nameOf = (reference) => reference.$ref.split("/").pop();

/** Return the words for a schema's type: `string, 1 to 64 long`, `Position or null`. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = nameOf(schema);
    return name === "JsonValue" ? ["any JSON"] : [element("a", { href: `#${name}` }, name)];
  }
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.flatMap((each, i) => (i ? [" or ", ...typeOf(each)] : typeOf(each)));
  if ("const" in schema) return [code(JSON.stringify(schema.const))];
  if (schema.enum) return schema.enum.flatMap((each, i) => (i ? [" or ", code(JSON.stringify(each))] : [code(JSON.stringify(each))]));
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items ?? {})];
  if (schema.additionalProperties?.type) return ["object of ", ...typeOf(schema.additionalProperties)];
  const bounds = Object.entries(schema).filter(([key]) => /^(min|max|exclusive|pattern|multiple|format)/.test(key));
  const known = schema.type ?? "any JSON";
  return [known, ...bounds.flatMap(([key, value]) => [`, ${key} `, code(value)])];
}

function fields(caption, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const optional = !(schema.required ?? []).includes(name);
    const byDefault = optional && field.default != null ? [", default ", code(JSON.stringify(field.default))] : [];
    return [code(name), optional ? "optional" : "", [...typeOf(field), ...byDefault, ...prose(field.description ? `. ${field.description}` : "")]];
  });
  return table(caption, ["field", "", "type"], rows);
}

function show(document_) {
  const { schemas, securitySchemes } = document_.components;
  const channel = document_.channels.connection;
  const [server] = Object.values(document_.servers);
  const shown = new Set();
  const typeName = (name) => channel.messages[name].name;
  const schemaOf = (name) => (shown.add(name), schemas[name]);

  const command = ([name, operation]) =>
    element("section", { id: name }, element("h3", {}, typeName(name)), paragraphs(operation.description),
      fields("Command", schemaOf(name)),
      operation.reply.messages.map(nameOf).filter((reply) => reply !== "ErrorReply").map((reply) =>
        fields(["Answer. ", ...prose(schemaOf(reply).description)], schemas[reply])));

  const frame = ([name]) =>
    element("section", { id: name }, element("h3", {}, typeName(name)), paragraphs(schemaOf(name).description),
      fields(name, schemas[name]));

  const operations = Object.entries(document_.operations);
  const commands = operations.filter(([, operation]) => operation.action === "receive");
  const events = operations.filter(([, operation]) => operation.action === "send");
  const links = (list) => element("nav", {}, list.map(([name]) => element("a", { href: `#${name}` }, typeName(name))));
  const errors = schemas.ErrorReply.properties.code.oneOf;

  const parts = [
    element("h2", {}, "Connect"),
    element("p", {}, code(`${server.protocol}://${server.host}${server.pathname}${channel.address}`)),
    Object.values(securitySchemes).map((scheme) =>
      element("p", {}, "Credentials: ", code(scheme.scheme ?? `${scheme.in} ${scheme.name}`), " ", prose(scheme.description ?? ""))),
    table("Limits of this service", ["limit", "value"], Object.entries(channel["x-limits"]).map(([name, value]) => [code(name), String(value)])),
    element("h2", {}, "Commands"), links(commands), commands.map(command),
    element("h2", {}, "Frames of the server"), links(events), events.map(frame),
    element("h2", {}, "Errors"), fields("error", schemaOf("ErrorReply")),
    table("Codes", ["code", "retry", "meaning"], errors.map((each) => [code(each.const), each["x-retry"] ? "yes" : "no", prose(each.description)])),
    element("h2", {}, "Close codes"),
    table("Codes", ["code", "reason", "reconnect"], Object.entries(channel["x-close-codes"]).map(([number, close]) => [code(number), close.reason, close.reconnect ? "yes" : "no"])),
  ];
  const others = Object.keys(schemas).filter((name) => !shown.has(name) && schemas[name].properties);
  const types = others.map((name) =>
    element("section", { id: name }, element("h3", {}, name), paragraphs(schemas[name].description), fields(name, schemas[name])));
  page.replaceChildren(element("p", {}, document_.info.title, " ", document_.info.version), ...parts.flat(),
    ...(types.length ? [element("h2", {}, "Types"), ...types] : []));
}

try {
  const response = await fetch("../../asyncapi.json");
  if (!response.ok) throw new Error(`asyncapi.json: ${response.status} ${response.statusText}`);
  show(await response.json());
} catch (failure) {
  page.replaceChildren(element("p", { role: "alert" }, `The protocol cannot be shown. ${failure.message}`));
}
page.removeAttribute("aria-busy");
