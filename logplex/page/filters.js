// What stands in the filter's field and in the page's address, and what a session is asked for because of it.

const CONDITION = /^[A-Za-z_@][A-Za-z0-9_.@/-]{0,63}(?:>=|<=|!=|==|=|<|>)\S+$/
const NAMES = ['q', 'source', 'ps', 'severity', 'at']

// The place in `#/apps/NAME?q=…`: { app, q, source, ps, severity, at }; app is empty for the list of apps.
export function fromHash(hash) {
  const [path, query] = hash.replace(/^#/, '').split(/\?(.*)/s)
  const found = { app: '' }
  const given = new URLSearchParams(query ?? '')
  for (const name of NAMES) found[name] = given.get(name) ?? ''
  try {
    if (path.startsWith('/apps/')) found.app = decodeURIComponent(path.slice(6))
  } catch { /* no name at all */ }
  return found
}

export function toHash(place) {
  if (!place.app) return '#/'
  const given = new URLSearchParams(NAMES.filter((name) => place[name]).map((name) => [name, place[name]]))
  const query = given.toString()
  return `#/apps/${encodeURIComponent(place.app)}${query ? `?${query}` : ''}`
}

// The words of the field that are no conditions, as one phrase.
export function phrase(q) {
  return q.split(/\s+/).filter((word) => word && !CONDITION.test(word)).join(' ')
}

// The filter's fields of a session: the server filters, so that the newest lines that match are shown, however old.
export function wanted(place) {
  const words = phrase(place.q)
  const fields = place.q.split(/\s+/).filter((word) => CONDITION.test(word))
  const found = {}
  if (words) found.pattern = `(?i)${words.replace(/[^\p{L}\p{N}_ ]/gu, (sign) => escaped(sign))}`
  if (fields.length) found.fields = fields
  for (const name of ['source', 'ps', 'severity']) if (place[name]) found[name] = place[name]
  return found
}

// RE2 takes a backslash before ASCII punctuation only.
const escaped = (sign) => (/[!-/:-@[-^`{-~]/.test(sign) ? `\\${sign}` : sign)
