// Follows an app through a session of server-sent events, without a gap or a repeat whatever happens to the connection.
//
// * It reads the stream itself rather than through EventSource, which tells neither the ids of heartbeats (where a
//   filtered tail has got to) nor a session that has expired from a server that is down, and cannot wait.
// * A place is the id of the last whole event. Whatever ends the stream, the next one begins behind that place; an
//   expired session is replaced by a new one. Session URLs stay in here.
// * To pause is not to read: the server keeps our place, and after a while the connection may end; nothing is lost that
//   the server still holds, and what it no longer holds it tells (L11).

import { session, Refused } from './api.js'

const SILENCE_MS = 35_000 // three heartbeats; a dead connection is broken off then
const FIRST_RETRY_MS = 400
const LAST_RETRY_MS = 5_000
const HIDDEN_MS = 30_000 // browsers allow six connections to a host: a tab that nobody sees gives its own back

export class Tail {
  // wanted: what the session shows (num and the fields of a filter); after: the id to begin behind; follow: whether to
  // go on when the end is reached. take(lines) may return a promise to be waited for; told(state, detail) is called
  // with: connecting, live, lost (and why), end, refused (and why).
  constructor({ app, wanted, after = '', follow = true, take, told }) {
    Object.assign(this, { app, wanted, place: after, follow, take, told })
    this.session = null
    this.stopped = false
    this.isLost = false
    this.holds = new Set()
    this.open = Promise.resolve()
    this.abort = new AbortController()
    this.retryMs = FIRST_RETRY_MS
    this.onVisibility = () => this.#visibility()
    document.addEventListener('visibilitychange', this.onVisibility)
    this.onOnline = () => this.hurry?.()
    addEventListener('online', this.onOnline)
    this.#run()
  }

  stop() {
    this.stopped = true
    this.abort.abort()
    this.release(...this.holds)
    this.hurry?.()
    clearTimeout(this.hiding)
    document.removeEventListener('visibilitychange', this.onVisibility)
    removeEventListener('online', this.onOnline)
  }

  hold(reason) {
    if (this.holds.size === 0) this.open = new Promise((resolve) => { this.opened = resolve })
    this.holds.add(reason)
  }

  release(...reasons) {
    for (const reason of reasons) this.holds.delete(reason)
    if (this.holds.size === 0) this.opened?.()
  }

  async #run() {
    while (!this.stopped) {
      let why = null
      try {
        await this.open
        if (!this.isLost) this.told('connecting')
        this.session ??= await session(this.app, { tail: this.follow, ...this.wanted })
        if (this.stopped) return
        if (await this.#read() && !this.follow) return this.told('end')
      } catch (error) {
        if (this.stopped) return
        why = error
        // What asking again cannot change: signed out, no such app, a filter that is none.
        if (error instanceof Refused && error.status >= 400 && error.status < 500 && error.status !== 429) {
          return this.told('refused', error)
        }
      }
      if (this.stopped) return
      if (this.holds.size === 0) {
        if (!this.isLost) this.told('lost', why) // once: it is read out
        this.isLost = true
        await new Promise((resolve) => {
          this.hurry = resolve
          setTimeout(resolve, this.retryMs * (0.75 + Math.random() / 2))
        })
        this.retryMs = Math.min(this.retryMs * 2, LAST_RETRY_MS)
      }
    }
  }

  // One stream; whether it ended in order. Throws when it broke.
  async #read() {
    const headers = { accept: 'text/event-stream' }
    if (this.place) headers['last-event-id'] = this.place
    this.abort = new AbortController()
    const { signal } = this.abort
    const response = await fetch(`${this.session.path}?events=severity`, {
      headers, signal, cache: 'no-store', credentials: 'omit',
    })
    if (response.status === 404) {
      this.session = null
      return false
    }
    if (!response.ok) throw new Refused(0, `The server answered ${response.status}.`)
    this.isLost = false
    this.told('live')
    const reader = response.body.getReader()
    const decoder = new TextDecoder()
    let rest = ''
    for (;;) {
      await this.open
      const silence = setTimeout(() => this.abort.abort(), SILENCE_MS)
      const { value, done } = await reader.read().finally(() => clearTimeout(silence))
      if (done) return true
      rest += decoder.decode(value, { stream: true })
      const end = rest.lastIndexOf('\n\n') + 2
      if (end < 2 || this.stopped) continue
      const lines = this.#events(rest.slice(0, end))
      rest = rest.slice(end)
      this.retryMs = FIRST_RETRY_MS
      if (lines.length) await this.take(lines)
    }
  }

  // Whole events as lines; an event without data only moves our place.
  #events(text) {
    const lines = []
    for (const block of text.split('\n\n')) {
      let severity = ''
      let data = null
      for (const field of block.split('\n')) {
        if (field.startsWith('data: ')) data = data === null ? field.slice(6) : `${data}\n${field.slice(6)}`
        else if (field.startsWith('id: ')) this.place = field.slice(4)
        else if (field.startsWith('event: ')) severity = field.slice(7)
      }
      if (data !== null) lines.push({ id: this.place, severity, text: data })
    }
    return lines
  }

  #visibility() {
    clearTimeout(this.hiding)
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        this.hold('hidden')
        this.abort.abort()
      }, HIDDEN_MS)
    } else {
      this.release('hidden')
      this.hurry?.()
    }
  }
}
