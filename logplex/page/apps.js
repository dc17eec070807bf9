// The list of apps, with the lines a second of each and how they were in the last minutes.

import * as api from './api.js'
import { element } from './lines.js'
import { toHash } from './filters.js'

const POLL_MS = 2500
const SAMPLES = 40
const SVG = 'http://www.w3.org/2000/svg'

export class Apps {
  constructor({ search, list, more, note, worked, failed }) {
    Object.assign(this, { search, list, more, note, worked, failed })
    this.rows = new Map()
    this.places = new Map() // name → { epoch, head, at }
    this.samples = new Map()
    this.current = ''
    search.addEventListener('input', () => this.#later(150))
    more.addEventListener('click', () => {
      this.pages += 1
      this.refresh()
    })
    document.addEventListener('visibilitychange', () => document.hidden || this.#later(0))
    this.pages = 1
    this.running = false
  }

  start() {
    if (this.running) return
    this.running = true
    this.refresh()
  }

  stop() {
    this.running = false
    clearTimeout(this.timer)
    this.rows.clear()
    this.list.replaceChildren()
  }

  show(name) {
    this.current = name
    for (const [app, row] of this.rows) this.#mark(row, app)
  }

  #later(ms) {
    clearTimeout(this.timer)
    if (this.running) this.timer = setTimeout(() => this.refresh(), ms)
  }

  async refresh() {
    clearTimeout(this.timer)
    const round = (this.round = (this.round ?? 0) + 1)
    const prefix = this.search.value.trim()
    try {
      const found = []
      let more = true
      for (let page = 0; page < this.pages && more; page++) {
        const answer = await api.apps(prefix, found.at(-1)?.name ?? '')
        found.push(...answer.apps)
        more = answer.more
      }
      if (round !== this.round || !this.running) return
      this.#show(found, prefix)
      this.more.hidden = !more
      this.worked()
    } catch (error) {
      this.failed(error)
    }
    if (round === this.round && !document.hidden) this.#later(POLL_MS)
  }

  #show(apps, prefix) {
    const names = new Set(apps.map(({ name }) => name))
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue
      row.remove()
      this.rows.delete(name)
      this.places.delete(name)
      this.samples.delete(name)
    }
    let before = null
    for (const app of apps) {
      let row = this.rows.get(app.name)
      if (!row) {
        row = this.#row(app.name)
        this.rows.set(app.name, row)
      }
      const wanted = before ? before.nextSibling : this.list.firstChild
      if (wanted !== row) this.list.insertBefore(row, wanted)
      before = row
      this.#sample(app, row)
      this.#mark(row, app.name)
    }
    this.note.hidden = apps.length > 0
    this.note.textContent = prefix ? 'No app begins so.' : 'There is no app yet: logplex channels create APP'
  }

  #row(name) {
    const row = element('li')
    const link = element('a')
    link.href = toHash({ app: name })
    const line = document.createElementNS(SVG, 'svg')
    line.setAttribute('viewBox', '0 0 60 16')
    line.setAttribute('preserveAspectRatio', 'none')
    line.setAttribute('aria-hidden', 'true')
    line.append(document.createElementNS(SVG, 'polyline'))
    link.append(element('span', 'app-name', name), line, element('span', 'rate', '–'))
    row.append(link)
    return row
  }

  #mark(row, name) {
    if (name === this.current) row.firstChild.setAttribute('aria-current', 'page')
    else row.firstChild.removeAttribute('aria-current')
  }

  // `head` counts lines: its difference over time is the rate. An app that has none is quiet.
  #sample({ name, epoch, head }, row) {
    const now = performance.now()
    const before = this.places.get(name)
    this.places.set(name, { epoch, head, at: now })
    if (!before || now - before.at < 500) {
      if (before) this.places.set(name, before)
      return
    }
    const known = before.epoch === epoch && head !== undefined
    const rate = known ? Math.max(0, (head - before.head) / ((now - before.at) / 1000)) : 0
    const samples = [...(this.samples.get(name) ?? []), rate].slice(-SAMPLES)
    this.samples.set(name, samples)
    row.querySelector('.rate').textContent = rateText(rate)
    row.classList.toggle('quiet', rate === 0)
    const top = Math.max(1, ...samples)
    const points = samples.map((value, index) => {
      const x = 60 - (samples.length - 1 - index) * (60 / (SAMPLES - 1))
      return `${x.toFixed(1)},${(15 - (value / top) * 14).toFixed(1)}`
    })
    row.querySelector('polyline').setAttribute('points', points.join(' '))
  }
}

function rateText(rate) {
  if (rate >= 1000) return `${(rate / 1000).toFixed(1)}k/s`
  return rate >= 9.95 || rate === 0 ? `${Math.round(rate)}/s` : `${rate.toFixed(1)}/s`
}
