// An app's drains: state, last error, last success, pending and lost.

import { element, shown } from './lines.js'

const number = new Intl.NumberFormat('en')

function ago(time) {
  if (!time) return 'never'
  const seconds = (Date.now() - new Date(time).getTime()) / 1000
  return `${duration(Math.max(0, seconds))} ago`
}

function duration(seconds) {
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`
  }
  return `${Math.floor(seconds)} s`
}

export const count = (value) => number.format(value ?? 0)

// bad: the newest try failed, whatever it is doing about that; good: it delivers.
export function health(status) {
  if (!status) return 'idle'
  const failed = status.error && !(Date.parse(status.last_success) >= Date.parse(status.error.at))
  if (failed || status.state === 'backing off' || status.state === 'refused by policy') return 'bad'
  return status.state === 'idle' ? 'idle' : 'good'
}

export function showDrains(root, drains) {
  if (!drains.length) {
    root.replaceChildren(element('p', 'hint', 'No drains: this app’s lines are delivered nowhere.'))
    return
  }
  root.replaceChildren(...drains.map(drainElement))
}

function drainElement({ id, url, status }) {
  const made = element('div', `drain ${health(status)}`)
  const title = element('p', 'drain-title')
  title.append(element('span', 'state', status?.state ?? 'not running'), element('span', 'url', shown(url)))
  title.lastChild.title = `drain ${id}: ${shown(url)}`
  made.append(title)
  if (!status) return made
  const facts = element('dl')
  const lost = Object.entries(status.lost ?? {}).filter(([, lines]) => lines)
  const total = lost.reduce((sum, [, lines]) => sum + lines, 0)
  const why = lost.length ? ` (${lost.map(([reason, lines]) => `${reason} ${count(lines)}`).join(', ')})` : ''
  const pending = status.pending && status.oldest_pending_seconds !== null
    ? `${count(status.pending)}, ${duration(status.oldest_pending_seconds)} old` : count(status.pending)
  fact(facts, 'delivered', count(status.delivered))
  fact(facts, 'pending', pending, status.pending > 0 && health(status) === 'bad' ? 'warn' : '')
  fact(facts, 'lost', count(total) + why, total ? 'loss' : '')
  fact(facts, 'last success', ago(status.last_success))
  made.append(facts)
  if (status.error) {
    const error = element('p', 'last-error')
    error.append(element('b', '', 'last error'), ` ${shown(status.error.text)} · ${ago(status.error.at)}`)
    if (status.until) error.append(` · next try ${new Date(status.until).toTimeString().slice(0, 8)}`)
    made.append(error)
  }
  return made
}

function fact(list, name, value, kind) {
  const pair = element('div')
  pair.append(element('dt', '', name), element('dd', kind, value))
  list.append(pair)
}
