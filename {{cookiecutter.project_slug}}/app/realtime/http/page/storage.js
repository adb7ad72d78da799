// Storage that survives a reload. If the browser forbids it, the data is lost with the page.

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
