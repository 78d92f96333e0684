/** The server's endpoints, with keys that live in this tab alone. */

import { eventsOf } from "./events.js";

const KEY = "rerail.key";
const ADMIN_KEY = "rerail.admin-key";

export const keys = {
  get: (admin = false) => sessionStorage.getItem(admin ? ADMIN_KEY : KEY) ?? "",
  set(key, admin = false) {
    if (key) sessionStorage.setItem(admin ? ADMIN_KEY : KEY, key);
    else sessionStorage.removeItem(admin ? ADMIN_KEY : KEY);
  },
};

/** What the server answered instead of doing it; status 0 is no answer at all. */
export class ApiError extends Error {
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

async function request(path, { method = "GET", body, admin = false, signal } = {}) {
  const headers = { Accept: "application/json, text/event-stream" };
  const key = (admin && keys.get(true)) || keys.get() || keys.get(true);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it running?", 0);
  }
  if (response.ok) return response;
  throw new ApiError(await fault(response), response.status, response.headers.get("Retry-After"));
}

async function fault(response) {
  const plain = `The server answered ${response.status} ${response.statusText}`.trim();
  try {
    const { error } = await response.json();
    return error?.message ?? plain;
  } catch {
    return plain;
  }
}

const json = async (path, options) => (await request(path, options)).json();
const query = (filters) =>
  new URLSearchParams(Object.entries(filters).filter(([, value]) => value !== ""));
const at = (name) => `/admin/policies/${encodeURIComponent(name)}`;

export const api = {
  config: () => json("/ui/config"),

  /** Ask, and yield {event, data} as the answer is searched for. */
  async *watch(body, signal) {
    yield* eventsOf(await request("/watch", { method: "POST", body, signal }));
  },

  /** The JSON Schema of policies. */
  schema: () => json("/v1/policies/schema"),

  policies: () => json("/admin/policies", { admin: true }),
  policy: (name) => json(at(name), { admin: true }),
  save: (name, yaml) => json(at(name), { method: "PUT", body: { yaml }, admin: true }),
  check: (name, yaml, signal) =>
    json(`${at(name)}/check`, { method: "POST", body: { yaml }, admin: true, signal }),
  rollback: (name, version) =>
    json(`${at(name)}/rollback`, { method: "POST", body: { version }, admin: true }),

  interventions: (filters, signal) =>
    json(`/admin/interventions?${query(filters)}`, { admin: true, signal }),

  /** The same records as the bytes of a file. */
  exported: async (filters) =>
    (await request(`/admin/interventions/export?${query(filters)}`, { admin: true })).blob(),
};
