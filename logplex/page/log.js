// The list of lines: bounded, drawn once a frame, at its end unless the reader has scrolled away from it.
//
// * At most MAX_LINES are in the document and as many wait; whoever brings more waits for the next frame.
// * While the reader looks back nothing moves: what comes waits, and soon the stream waits too (tail.js).

import { lineElement } from './lines.js'

const MAX_LINES = 4000
const LINES_A_FRAME = 1000
const AT_END_PIXELS = 24

export class Log {
  // link(line): the line's permalink; left(): the reader has scrolled away from the end; back(): he is there again.
  constructor(root, { link, left, back }) {
    Object.assign(this, { root, link, left, back })
    this.waiting = []
    this.held = false
    this.atEnd = true
    this.words = ''
    this.frame = 0
    this.chosen = null
    this.newest = null
    this.cleared = false
    root.addEventListener('scroll', () => this.#scrolled(), { passive: true })
    new ResizeObserver(() => this.atEnd && this.#toEnd()).observe(root)
  }

  // Takes parsed lines; the promise is kept when there is room for more.
  take(lines) {
    const all = this.waiting.length ? this.waiting.concat(lines) : lines
    this.waiting = this.held ? all : all.slice(-MAX_LINES)
    this.#draw()
    if (this.waiting.length < LINES_A_FRAME && !this.held) return undefined
    return new Promise((resolve) => { this.room = resolve })
  }

  // Empty the list once something else is there to be shown.
  clear({ now = true } = {}) {
    this.waiting = []
    this.room?.()
    this.cleared = true
    if (now) this.#empty()
  }

  hold() {
    this.held = true
  }

  release() {
    this.held = false
    this.#draw()
  }

  // A note behind the lines, of the page's own.
  note(text) {
    const row = document.createElement('p')
    row.className = 'note'
    row.textContent = text
    this.root.append(row)
  }

  // A note in place of lines, until some come.
  say(text) {
    this.clear()
    this.note(text)
    this.cleared = true
  }

  toEnd() {
    this.atEnd = true
    this.#toEnd()
  }

  setWrap(wrap) {
    this.root.classList.toggle('wrap', wrap)
    if (this.atEnd) this.#toEnd()
  }

  choose(row, { scroll = true } = {}) {
    this.chosen?.classList.remove('chosen')
    this.chosen = row
    row?.classList.add('chosen')
    if (row && scroll) row.scrollIntoView({ block: 'nearest' })
  }

  chooseNext(step) {
    const rows = this.root.querySelectorAll('.line')
    if (!rows.length) return
    const at = this.chosen ? [...rows].indexOf(this.chosen) : rows.length
    this.choose(rows[Math.max(0, Math.min(rows.length - 1, at + step))])
  }

  find(id) {
    return [...this.root.querySelectorAll('.line')].find((row) => row.dataset.id === id)
  }

  #draw() {
    if (this.frame || this.held || !this.waiting.length) return
    this.frame = requestAnimationFrame(() => {
      this.frame = 0
      if (this.held) return
      const lines = this.waiting.slice(0, LINES_A_FRAME)
      this.waiting = this.waiting.slice(LINES_A_FRAME)
      if (this.cleared) this.#empty()
      const fragment = document.createDocumentFragment()
      for (const line of lines) fragment.append(lineElement(line, this.link(line), this.words))
      this.newest = fragment.lastChild ?? this.newest
      this.root.append(fragment)
      for (let over = this.root.childElementCount - MAX_LINES; over > 0; over--) this.root.firstChild.remove()
      if (this.chosen && !this.chosen.isConnected) this.chosen = null
      if (this.atEnd) this.#toEnd()
      if (this.waiting.length < LINES_A_FRAME) this.room?.()
      this.#draw()
    })
  }

  #empty() {
    this.root.replaceChildren()
    this.chosen = this.newest = null
    this.cleared = false
    this.atEnd = true
  }

  #toEnd() {
    this.root.scrollTop = this.root.scrollHeight
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.root
    const atEnd = scrollHeight - scrollTop - clientHeight < AT_END_PIXELS
    if (atEnd === this.atEnd) return
    this.atEnd = atEnd
    if (atEnd) this.back()
    else this.left()
  }
}
