// The sources and processes that were seen in an app, each a filter that can be clicked.

import { element, shown } from './lines.js'

const MAX = 40 // of a kind; an app may invent processes without end
const KINDS = [['source', 'source'], ['ps', 'process']]

export class Chips {
  // choose(kind, value): one was clicked.
  constructor(root, choose) {
    Object.assign(this, { root, choose })
    this.reset()
  }

  reset() {
    this.seen = { source: new Set(), ps: new Set() }
  }

  // Whether parsed lines show something that was not there before.
  see(lines) {
    let news = false
    for (const { source, process } of lines) {
      news = this.#add(this.seen.source, source) || news
      news = this.#add(this.seen.ps, process.replace(/\.[^.]*$/, '')) || news // web.1 is one of web
    }
    return news
  }

  // place: what is filtered by now; it is there to be unchosen even when nothing matches.
  show(place) {
    const made = []
    for (const [kind, title] of KINDS) {
      const names = new Set([...(place[kind] ? [place[kind]] : []), ...[...this.seen[kind]].sort()])
      if (names.size) made.push(element('span', 'chips-title', title))
      for (const name of names) made.push(this.#chip(kind, name, place[kind] === name))
    }
    const focused = this.root.contains(document.activeElement) ? document.activeElement.textContent : null
    this.root.replaceChildren(...made)
    if (focused !== null) made.find((chip) => chip.textContent === focused)?.focus()
  }

  #add(known, name) {
    if (!name || known.has(name) || known.size >= MAX) return false
    known.add(name)
    return true
  }

  #chip(kind, name, pressed) {
    const chip = element('button', 'chip', shown(name))
    chip.type = 'button'
    chip.setAttribute('aria-pressed', String(pressed))
    chip.addEventListener('click', () => this.choose(kind, name))
    return chip
  }
}
