/**
 * How the page signs in: `fields` are the inputs of its form, and `credentials` is called before
 * every attempt to connect. Credentials that expire are valid for `lifetime_s` seconds, if given.
 */
//# if cookiecutter.auth in ["jwt", "ticket", "session"]
async function post(path, body, headers = {}) {
  const signal = AbortSignal.timeout(10_000);
  const request = { method: "POST", headers, body: JSON.stringify(body), signal };
  const answer = await fetch(path, request).catch(() => {
    throw new Error("the service does not answer");
  });
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({})); // a proxy may answer, too
  throw new Error(detail ?? `${path}: ${answer.status} ${answer.statusText}`);
}

//# endif
//# if cookiecutter.auth == "jwt"
export const hint = "In development, sign in with any name.";
export const fields = { user: "Name" };
export async function credentials({ token, user, lifetime_s }) {
  if (token) return token; // from a link of `make token`
  const answer = await post("tokens", { user, lifetime_s });
  return (await answer.json()).token;
}
//# elif cookiecutter.auth == "ticket"
export const hint = "This page requests tickets as your backend does, with BACKEND_KEY from .env.";
export const fields = { user: "Name", key: "Backend key" };
export async function credentials({ user, key }) {
  if (/[^!-~]/.test(key)) throw new Error("the backend key must be ASCII without spaces");
  const answer = await post("tickets", { user }, { Authorization: `Bearer ${key}` });
  return (await answer.json()).ticket;
}
//# elif cookiecutter.auth == "session"
export const hint = "In development, sign in with any name.";
export const fields = { user: "Name" };
export const credentials = ({ user, lifetime_s }) => post("login", { user, lifetime_s });
//# else
export const hint = "Every connection is a guest.";
export const fields = {};
export const credentials = (_) => "";
//# endif
