// What is kept over a reload; where the browser forbids that, for this page alone.

/** Return the browser's storage of this tab, or an object in its place. */
function storageOfTab() {
  try {
    return sessionStorage;
  } catch {
    return {};
  }
}

export const storage = storageOfTab();

/** Forget all. */
export function forgetAll() {
  for (const name of Object.keys(storage)) delete storage[name];
}
