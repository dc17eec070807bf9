// The list of lines: bounded, drawn once a frame, at its end unless the reader has scrolled away from it.
//
// * At most MAX_LINES are in the document and as many wait; whoever brings more waits for the next frame.
// * Lines stand in blocks, which come and go whole: a browser lays out anew only the last one, and none out of sight.
// * Drawing takes a third of the time at most, so that the page answers however much comes.
// * While the reader looks back nothing moves: what comes waits, and soon the stream waits too (tail.js).

import { lineElement } from './lines.js'

const MAX_LINES = 4000
const LINES_A_BLOCK = 100
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
    this.restUntil = 0
    this.chosen = null
    this.newest = null
    this.block = null // the last one
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
    const early = this.restUntil - performance.now()
    if (early > 0) {
      clearTimeout(this.resting)
      this.resting = setTimeout(() => this.#draw(), early)
      return
    }
    this.frame = requestAnimationFrame(() => {
      this.frame = 0
      if (this.held) return
      const started = performance.now()
      const lines = this.waiting.slice(0, LINES_A_FRAME)
      this.waiting = this.waiting.slice(LINES_A_FRAME)
      if (this.cleared) this.#empty()
      for (const line of lines) this.#append(lineElement(line, this.link(line), this.words))
      while (this.root.childElementCount > MAX_LINES / LINES_A_BLOCK) this.root.firstChild.remove()
      if (this.chosen && !this.chosen.isConnected) this.chosen = null
      if (this.atEnd) this.#toEnd()
      const ended = performance.now()
      this.restUntil = ended + 2 * (ended - started)
      if (this.waiting.length < LINES_A_FRAME) this.room?.()
      this.#draw()
    })
  }

  #append(row) {
    if (!this.block || this.block.childElementCount === LINES_A_BLOCK) {
      this.block = document.createElement('div')
      this.block.className = 'block'
      this.root.append(this.block)
    }
    this.block.append(row)
    this.newest = row
  }

  #empty() {
    this.root.replaceChildren()
    this.chosen = this.newest = this.block = null
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
