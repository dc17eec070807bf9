// The page's own calls. The cookie goes with them by itself; a change carries the page's token as well.

const BASE = '/page/api'
let token = ''

export class Refused extends Error {
  constructor(status, text) {
    super(text)
    this.status = status // 0: there was no answer
  }
}

async function call(method, path, body, { again = true } = {}) {
  const headers = { accept: 'application/json' }
  if (method !== 'GET') headers['page-token'] = token
  if (body !== undefined) headers['content-type'] = 'application/json'
  let response
  try {
    response = await fetch(BASE + path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: 'no-store',
    })
  } catch {
    throw new Refused(0, 'The server does not answer.')
  }
  const value = response.status === 204 ? null : await response.json().catch(() => null)
  if (response.status === 403 && method !== 'GET' && again) { // another tab has signed in anew: our token is old
    await me()
    return call(method, path, body, { again: false })
  }
  if (!response.ok) throw new Refused(response.status, value?.error ?? `The server answered ${response.status}.`)
  return value
}

// Who is signed in; null when nobody is.
export async function me() {
  const found = await call('GET', '/me')
  token = found.token ?? ''
  return found.id
}

export async function signIn(id, password) {
  const found = await call('POST', '/sign-in', { id, password })
  token = found.token
  return found.id
}

export const signOut = () => call('POST', '/sign-out')
export const app = (name) => call('GET', `/apps/${encodeURIComponent(name)}`)
export const apps = (prefix, after) => call('GET', `/apps?${new URLSearchParams({ prefix, after })}`)
export const session = (name, wanted) => call('POST', `/apps/${encodeURIComponent(name)}/sessions`, wanted)
