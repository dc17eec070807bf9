// One app: its tail and the filters on it; what makes it wait, and how it goes on.

import { Tail } from './tail.js'
import { Log } from './log.js'
import { Chips } from './chips.js'
import { Details } from './details.js'
import { parse } from './lines.js'
import { fromHash, toHash, phrase, wanted } from './filters.js'
import { count } from './drains.js'

const NEWEST = 500 // lines of history that are shown at first
const BEFORE = 60 // lines before the one that a permalink names
const AFTER = 200 // and behind it, before the reader is asked whether to go on
const TYPING_MS = 200
const EMPTY_MS = 400 // without lines after the start, before we say that there are none
const FLASH_MS = 1500

const at = (id) => document.getElementById(id)

export class AppView {
  // told(text, kind): the state of the connection; moved(place): another filter; failed(error): of a call.
  constructor({ told, moved, failed }) {
    Object.assign(this, { told, moved, failed })
    this.place = fromHash('')
    this.log = new Log(at('log'), {
      link: (line) => toHash({ ...this.place, at: line.id }),
      left: () => this.#hold('scroll'),
      back: () => this.#release('scroll'),
    })
    this.chips = new Chips(at('chips'), (kind, value) => this.#filter(kind, value))
    this.details = new Details({
      facts: at('facts'), drains: at('drains'), toggle: at('drains-toggle'),
      came: (found) => this.#came(found), failed,
    })
    this.#listen()
    this.setWrap(read('wrap') === 'yes')
  }

  show(place) {
    const other = place.app !== this.place.app
    if (!other && this.tail && toHash(place) === toHash(this.place)) return
    clearTimeout(this.typing)
    this.place = place
    at('app-name').textContent = place.app
    if (at('query').value !== place.q && document.activeElement !== at('query')) at('query').value = place.q
    at('severity').value = place.severity
    if (other) {
      this.chips.reset()
      this.details.show(place.app)
    }
    this.chips.show(place)
    this.#open(other)
  }

  close() {
    this.tail?.stop()
    this.tail = null
    clearTimeout(this.typing)
    clearTimeout(this.saying)
    this.details.show('')
    this.place = fromHash('')
    this.log.clear()
  }

  setWrap(wrap) {
    this.log.setWrap(wrap)
    at('wrap').setAttribute('aria-pressed', String(wrap))
    write('wrap', wrap ? 'yes' : 'no')
  }

  pause() {
    if (this.paused || this.ended) return this.goOn()
    this.paused = true
    this.#hold('button')
    return undefined
  }

  // Whatever made it wait: go on where it stopped, at the end of the list.
  goOn() {
    this.paused = false
    if (this.ended) { // the place of the link is behind us now
      this.ended = false
      this.place = { ...this.place, at: '' }
      this.moved(this.place)
      this.#follow(this.tail.place)
    }
    this.log.toEnd()
    this.#release('button', 'scroll')
  }

  async copyLink() {
    const row = this.log.chosen ?? this.log.newest
    if (!row) return
    const url = new URL(toHash({ ...this.place, at: row.dataset.id }), location.href).href
    try {
      await navigator.clipboard.writeText(url)
      this.#flash('Link copied')
    } catch { // no clipboard without TLS: the address itself is the link then
      this.log.choose(row)
      history.replaceState(null, '', url)
      this.place = { ...this.place, at: row.dataset.id }
      this.#flash('The address is the link')
    }
  }

  #flash(text) {
    at('copy').textContent = text
    clearTimeout(this.flashing)
    this.flashing = setTimeout(() => { at('copy').textContent = 'Copy link' }, FLASH_MS)
  }

  // A new reading: of the newest lines, or around the place that the address names.
  #open(other) {
    this.tail?.stop()
    this.paused = this.ended = false
    at('bad-filter').hidden = true
    this.log.words = phrase(this.place.q).toLowerCase()
    this.log.clear({ now: other })
    this.log.release()
    this.#waits()
    const place = /^([0-9a-f]{16})\.([0-9]{1,15})$/.exec(this.place.at)
    if (!place) return this.#follow('')
    const start = Math.max(-1, Number(place[2]) - BEFORE - 1)
    return this.#around(`${place[1]}.${start}`)
  }

  #follow(after) {
    this.first = true
    this.tail?.stop()
    // An app that forbids tails shows what it holds, once.
    const follow = !this.details.found?.flags.includes('no_tail')
    this.tail = new Tail({
      app: this.place.app, after, follow,
      wanted: { num: NEWEST, ...wanted(this.place) },
      take: (lines) => this.#take(lines),
      told: (state, detail) => this.#state(state, detail),
    })
  }

  // The lines around a permalink's; then it waits.
  #around(after) {
    let left = BEFORE + AFTER
    this.first = true
    const tail = new Tail({
      app: this.place.app, after, follow: false,
      wanted: { num: NEWEST, ...wanted(this.place) },
      take: (lines) => {
        const some = lines.slice(0, left)
        left -= some.length
        const taken = this.#take(some)
        if (left > 0) return taken
        tail.place = some.at(-1).id
        tail.stop()
        this.#arrived()
        return taken
      },
      told: (state, detail) => (state === 'end' ? this.#arrived() : this.#state(state, detail)),
    })
    this.tail = tail
  }

  #arrived() {
    this.ended = true
    this.first = false
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const row = this.log.find(this.place.at)
      this.log.atEnd = false
      if (row) {
        this.log.choose(row, { scroll: false })
        row.scrollIntoView({ block: 'center' })
      } else {
        this.log.note('The line of this link is not among these: it is no longer held, or the filter hides it.')
      }
      this.told('At a link', 'held')
      this.#behind('Lines around a link.')
    }))
  }

  #take(lines) {
    const parsed = lines.map(parse)
    if (this.chips.see(parsed)) this.chips.show(this.place)
    this.first = false
    return this.log.take(parsed)
  }

  // Once: only this one; again: all of them.
  #filter(kind, value) {
    this.#move({ [kind]: this.place[kind] === value ? '' : value })
  }

  #move(changes) {
    this.moved({ ...this.place, q: at('query').value.trim(), at: '', ...changes })
  }

  #hold(reason) {
    if (this.ended) return
    this.log.hold()
    this.tail?.hold(reason)
    this.#waits()
  }

  #release(...reasons) {
    this.tail?.release(...reasons)
    if (this.tail?.holds.size || this.ended) return
    this.log.release()
    this.#waits()
    if (this.live) this.told('Live', 'live')
  }

  #waits() {
    const holds = this.tail?.holds ?? new Set()
    at('pause').setAttribute('aria-pressed', String(Boolean(this.paused)))
    at('pause').textContent = this.paused ? 'Paused' : 'Pause'
    if (!holds.size || this.tail.stopped) {
      at('behind').hidden = true
      return
    }
    this.told('Paused', 'held')
    this.#behind('')
  }

  // How many lines of the app came since; a filter may hide some of them.
  #behind(text) {
    const position = Number(this.tail?.place.split('.')[1] ?? NaN)
    const lines = (this.details.found?.head ?? NaN) - position - 1 + this.log.waiting.length
    const since = lines > 0 ? `${count(lines)} newer ${lines === 1 ? 'line' : 'lines'}.` : ''
    at('behind-text').textContent = [text, since].filter(Boolean).join(' ') || 'Nothing newer yet.'
    at('behind').hidden = false
  }

  #state(state, detail) {
    this.live = state === 'live'
    if (this.tail?.holds.size) return
    if (state === 'connecting') this.told('Connecting …', 'wait')
    if (state === 'live') {
      this.told('Live', 'live')
      clearTimeout(this.saying)
      this.saying = setTimeout(() => this.first && this.log.say(Object.keys(wanted(this.place)).length
        ? 'No line matches yet. New ones show here as they come.'
        : 'No lines yet. They show here as they come.'), EMPTY_MS)
    }
    if (state === 'lost') this.told(`${detail?.status ? detail.message : 'No connection'}; trying again`, 'lost')
    if (state === 'end') this.told('This app forbids live tails; this is its history', 'held')
    if (state === 'refused') this.#refused(detail)
  }

  #refused(error) {
    if (error.status === 400 || error.status === 422) {
      at('bad-filter').textContent = error.message
      at('bad-filter').hidden = false
      this.log.clear()
      this.told('The filter is not understood', 'lost')
      return
    }
    this.told(error.status === 404 ? 'There is no such app' : error.message, 'lost')
    this.failed(error)
  }

  #came(found) {
    if (found.flags.includes('no_tail') && this.tail?.follow && !this.ended) this.#open(true) // it was forbidden since
    if (!at('behind').hidden) this.#behind(this.ended ? 'Lines around a link.' : '')
  }

  #listen() {
    at('query').addEventListener('input', () => {
      clearTimeout(this.typing)
      this.typing = setTimeout(() => this.#move({}), TYPING_MS)
    })
    at('severity').addEventListener('change', () => this.#move({ severity: at('severity').value }))
    at('pause').addEventListener('click', () => this.pause())
    at('go-on').addEventListener('click', () => {
      this.goOn()
      at('log').focus({ preventScroll: true })
    })
    at('wrap').addEventListener('click', () => this.setWrap(at('wrap').getAttribute('aria-pressed') !== 'true'))
    at('copy').addEventListener('click', () => this.copyLink())
    at('log').addEventListener('click', (event) => {
      const { dataset, classList } = event.target
      if (classList.contains('source')) return this.#filter('source', dataset.value)
      if (classList.contains('process')) return this.#filter('ps', dataset.value)
      const row = event.target.closest('.line')
      if (row && !String(getSelection())) this.log.choose(row === this.log.chosen ? null : row, { scroll: false })
      return undefined
    })
    const keys = {
      p: () => this.pause(), w: () => at('wrap').click(), c: () => this.copyLink(),
      j: () => this.log.chooseNext(1), k: () => this.log.chooseNext(-1),
    }
    at('log').addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return
      event.preventDefault()
      keys[event.key]()
    })
    document.addEventListener('keydown', (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)
      if (event.key === '/' && !typing && this.place.app) {
        event.preventDefault()
        at('query').focus()
      }
      if (event.key === 'Escape' && event.target === at('query')) at('log').focus()
    })
  }
}

// What the reader chose, kept by the browser when it keeps anything.
function read(name) {
  try { return localStorage.getItem(`logplex.${name}`) } catch { return null }
}

function write(name, value) {
  try { localStorage.setItem(`logplex.${name}`, value) } catch { /* it is asked again next time */ }
}
