// What is asked for again and again while an app is shown: its count of lines and its drains.

import * as api from './api.js'
import { count, health, showDrains } from './drains.js'

const POLL_MS = 2500
const WIDE = matchMedia('(min-width: 56rem)') // as in style.css

export class Details {
  // came(found): the app as it is now; failed(error): of a call.
  constructor({ facts, drains, toggle, came, failed }) {
    Object.assign(this, { facts, drains, toggle, came, failed })
    this.name = ''
    this.found = null
    this.wantsOpen = null // what the reader chose; else they are open where there is room and need
    toggle.addEventListener('click', () => {
      this.wantsOpen = drains.hidden
      this.#open(this.wantsOpen)
    })
    document.addEventListener('visibilitychange', () => document.hidden || this.#poll())
  }

  // Show the app of this name from now on; of an empty one, nothing.
  show(name) {
    this.name = name
    this.found = null
    this.facts.textContent = ''
    this.toggle.textContent = 'Drains'
    this.toggle.classList.remove('bad')
    this.drains.replaceChildren()
    this.#open(false)
    this.#poll()
  }

  async #poll() {
    clearTimeout(this.timer)
    const { name } = this
    if (!name || document.hidden) return
    try {
      const found = await api.app(name)
      if (this.name !== name) return
      this.#show(found)
    } catch (error) {
      if (this.name !== name) return
      this.failed(error)
    }
    clearTimeout(this.timer)
    if (this.name === name) this.timer = setTimeout(() => this.#poll(), POLL_MS)
  }

  #show(found) {
    this.found = found
    const dropped = Object.values(found.dropped ?? {}).reduce((sum, lines) => sum + lines, 0)
    const facts = [`${count(found.received)} received`]
    if (dropped) facts.push(`${count(dropped)} dropped`)
    facts.push(...found.flags.map((flag) => flag.replace('_', ' ')))
    this.facts.textContent = facts.join(' · ')
    const failing = found.drains.filter(({ status }) => health(status) === 'bad').length
    this.toggle.textContent = `Drains ${found.drains.length}${failing ? `, ${failing} failing` : ''}`
    this.toggle.classList.toggle('bad', failing > 0)
    showDrains(this.drains, found.drains)
    this.#open(this.wantsOpen ?? (WIDE.matches && found.drains.length > 0))
    this.came(found)
  }

  #open(open) {
    this.drains.hidden = !open
    this.toggle.setAttribute('aria-expanded', String(open))
  }
}
