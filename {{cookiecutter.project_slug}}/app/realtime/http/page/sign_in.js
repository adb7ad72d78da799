/**
 * How the page signs in: `fields` are those of its form, and `credentials` are asked for before
 * every attempt to connect.
 */
//# if cookiecutter.auth == "jwt"
export const hint = "make token NAME=alice prints a token, and a link to this page with it.";
export const fields = { token: "Token" };
export const credentials = ({ token }) => token;
//# elif cookiecutter.auth == "ticket"
export const hint = "This page requests tickets as your backend does, with BACKEND_KEY from .env.";
export const fields = { user: "Name", key: "Backend key" };
export async function credentials({ user, key }) {
  const headers = { Authorization: `Bearer ${key}` };
  const body = JSON.stringify({ user });
  const answer = await fetch("tickets", { method: "POST", headers, body });
  if (answer.status === 401) throw new Error("this is not the backend key");
  if (!answer.ok) throw new Error(`no ticket: ${answer.status} ${answer.statusText}`);
  return (await answer.json()).ticket;
}
//# elif cookiecutter.auth == "session"
export const hint = "In development, everybody may log in by any name.";
export const fields = { user: "Name" };
export async function credentials({ user }) {
  const answer = await fetch("login", { method: "POST", body: JSON.stringify({ user }) });
  if (!answer.ok) throw new Error(`no login: ${answer.status} ${answer.statusText}`);
}
//# elif cookiecutter.auth == "api_key"
export const hint = "A page cannot send a key. Connect with make client.";
export const fields = {};
export const credentials = () => "";
//# else
export const hint = "Every connection is a guest.";
export const fields = {};
export const credentials = () => "";
//# endif
