// The palette: a form for each command of asyncapi.json, your own included.
import { element } from "./element.js";
import { coloured, numbersIn } from "./json.js";
import { words } from "./log.js";

const EXAMPLES = { array: "[]", object: "{}", any: '{"text": "hello"}' };
const BOUNDS = { minLength: "minlength", maxLength: "maxlength", minimum: "min", maximum: "max" };

/** Return an input with its label. */
export const labelled = (label, input) => element("label", {}, label, input);

/** Return the input for a value. If it is not required, an empty input stands for `empty`. */
function inputFor(schema, required, empty) {
  let values = schema.enum;
  if (schema.type === "boolean") values = [true, false];
  else if ("const" in schema) values = [schema.const];
  if (values) {
    const choices = values.map((value) =>
      element("option", { value: JSON.stringify(value) }, String(value)));
    const none = element("option", { value: "" }, empty === null ? "null" : "not set");
    return element("select", {}, required ? choices : [none, choices]);
  }
  const optional = empty === null ? "null" : "optional";
  const placeholder = required ? "" : optional;
  if (!["string", "integer", "number"].includes(schema.type)) {
    const value = required ? EXAMPLES[schema.type ?? "any"] : "";
    return element("textarea", { required, placeholder, value });
  }
  const type = schema.type === "string" ? "text" : "number";
  const input = element("input", { type, required, placeholder });
  if (schema.type === "number") input.step = "any";
  for (const [bound, attribute] of Object.entries(BOUNDS))
    if (bound in schema) input.setAttribute(attribute, schema[bound]);
  return input;
}

/** Return whether JavaScript sends a number as it is written; fractions may be rounded. */
const isExact = (number) =>
  /^-?\d+$/.test(number) ? Number.isSafeInteger(Number(number)) : Number.isFinite(Number(number));

/** Return the value in an input, or `empty` if it is left empty. */
function valueIn(name, input, empty) {
  const { type, value, valueAsNumber } = input;
  if (type === "text") return value || input.required ? value : empty;
  if (value === "") return empty;
  const fail = (why) => {
    input.focus();
    throw new Error(`${name} ${why}`);
  };
  let parsed = valueAsNumber;
  try {
    if (type !== "number") parsed = JSON.parse(value);
  } catch {
    fail('is not JSON. A text needs double quotes: "hello"');
  }
  if (!numbersIn(value).every(isExact))
    fail("has a number that is too large for JavaScript to send exactly");
  return parsed;
}

/** Return the palette for a document; `send` sends a command, and promises the answer. */
export function palette({ operations, channels, components }, send) {
  const { messages } = channels.connection;
  const commands = Object.keys(operations).filter((name) => operations[name].action === "receive");
  let answer = element("output", {});
  const about = element("p", { className: "faint" });
  const inputs = element("div", { className: "inputs" });
  const choice = element("select", { onchange: show },
    commands.map((name) => element("option", { value: name }, messages[name].name)));
  let read = () => ({});

  /** Return the alternatives of a schema: a value must match one of them. */
  function kindsOf(schema) {
    if (schema.$ref) return kindsOf(components.schemas[schema.$ref.split("/").pop()]);
    return schema.anyOf?.flatMap(kindsOf) ?? [schema];
  }

  /** Return the input for a field, and what it stands for if it is left empty. */
  function controlFor(schema, required) {
    const kinds = kindsOf(schema);
    const others = kinds.filter(({ type }) => type !== "null");
    const empty = required ? null : undefined;
    const isNullable = others.length < kinds.length;
    const input = inputFor(others.length === 1 ? others[0] : {}, required && !isNullable, empty);
    return { input, empty };
  }

  function show() {
    const { properties, required = [] } = components.schemas[choice.value];
    const names = Object.keys(properties).filter((name) => name !== "id");
    const constantOf = (name) => {
      const [kind, ...others] = kindsOf(properties[name]);
      return others.length ? undefined : kind.const;
    };
    const constants = names.filter((name) => constantOf(name) !== undefined);
    const controls = names.filter((name) => !constants.includes(name)).map((name) =>
      ({ name, ...controlFor(properties[name], required.includes(name)) }));
    const former = answer;
    answer = element("output", {}); // a late answer must not appear below another command
    former.replaceWith(answer);
    about.textContent = operations[choice.value].description;
    inputs.replaceChildren(...controls.map(({ name, input }) => labelled(name, input)));
    read = () => Object.fromEntries([
      ...constants.map((name) => [name, constantOf(name)]),
      ...controls.map(({ name, input, empty }) => [name, valueIn(name, input, empty)]),
    ]);
  }

  async function submit(event) {
    event.preventDefault();
    const output = answer;
    output.className = "";
    try {
      output.textContent = "Waiting for the answer …";
      const answered = await send(read());
      output.replaceChildren(...answered
        ? ["Answer: ", element("code", {}, coloured(JSON.stringify(answered)))]
        : ["Done. No command had to be sent."]);
    } catch (error) {
      output.className = "failed";
      output.textContent = `Failed: ${words(error)}`;
    }
  }

  show();
  return element("form", { onsubmit: submit },
    labelled("Command", choice), about, inputs, element("button", {}, "Send"), answer);
}
