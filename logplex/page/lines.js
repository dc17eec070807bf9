// One line: its parts, what it is marked as, and its element. Text goes into text nodes alone.

const MARKS = { error: ['E', 'Error'], warning: ['W', 'Warning'], lost: ['!', 'Lines were lost'], debug: [' ', ''] }
const SEVERITIES = { emerg: 'error', alert: 'error', crit: 'error', err: 'error', warning: 'warning', debug: 'debug' }
const LEVEL = /(?:^|[\s{,])"?(?:at|level|lvl|severity)"?\s*[=:]\s*"?(error|err|fatal|crit|critical|panic|emerg|alert|warn|warning)\b/i
const STATUS = /(?:^|[\s{,])"?status"?\s*[=:]\s*"?5[0-9][0-9](?![0-9])/
const LOOKED_AT = 2000 // characters of a message in which a level is looked for

// Escape sequences that only colour are left out; every other control character is shown, and none acts.
const COLOURS = /\x1b\[[0-9;]*m/g
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

const COLOUR_COUNT = 8
const colours = new Map()

export function parse(line) {
  const { text } = line
  const space = text.indexOf(' ')
  const colon = text.indexOf(': ', space + 1)
  const header = colon < 0 && text.endsWith(':') ? text.slice(space + 1, -1) : text.slice(space + 1, colon)
  if (space <= 0 || (colon < 0 && !text.endsWith(':')) || header.includes(' ')) {
    return { ...line, time: '', source: '', process: '', message: text, mark: 'lost' } // a word of the server itself
  }
  const bracket = header.indexOf('[')
  const named = bracket > 0 && header.endsWith(']')
  const source = named ? header.slice(0, bracket) : header
  const process = named ? header.slice(bracket + 1, -1) : ''
  const message = colon < 0 ? '' : text.slice(colon + 2)
  return { ...line, time: text.slice(0, space), source, process, message, mark: markOf(line.severity, source, process, message) }
}

function markOf(severity, source, process, message) {
  if (source === 'heroku' && process === 'logplex' && message.startsWith('Error L1')) return 'lost'
  const mark = SEVERITIES[severity] ?? ''
  if (mark === 'error') return mark
  const head = message.slice(0, LOOKED_AT)
  const level = LEVEL.exec(head)
  if (STATUS.test(head) || (level && !level[1].toLowerCase().startsWith('warn'))) return 'error'
  return level ? 'warning' : mark
}

export function shown(text) {
  return text.replace(COLOURS, '').replace(CONTROL, (character) => {
    const code = character.charCodeAt(0)
    if (code < 0x20) return String.fromCharCode(0x2400 + code)
    return `\\u${code.toString(16).padStart(4, '0')}`
  })
}

let last = { key: '', text: '', valid: false } // times come in runs of the same second

// The reader's own time of day; what is no time stays as it is.
function clock(time) {
  const key = time.slice(0, 19) + time.slice(-6)
  if (last.key !== key) {
    const date = new Date(time)
    const valid = !Number.isNaN(date.getTime())
    last = { key, valid, text: valid ? date.toTimeString().slice(0, 8) : shown(time.slice(0, 32)) }
  }
  const fraction = last.valid ? /\.([0-9]{1,3})/.exec(time) : null
  return fraction ? `${last.text}.${fraction[1].padEnd(3, '0')}` : last.text
}

function colourOf(name) {
  if (colours.size > 1000) colours.clear() // a source that invents processes must not grow us for ever
  if (!colours.has(name)) colours.set(name, `c${colours.size % COLOUR_COUNT}`)
  return colours.get(name)
}

export function element(kind, name, text) {
  const made = document.createElement(kind)
  if (name) made.className = name
  if (text !== undefined) made.textContent = text
  return made
}

// The element of a parsed line; `link` is its permalink, `words` what is to be highlighted in it.
export function lineElement(line, link, words) {
  const row = element('div', line.mark ? `line ${line.mark}` : 'line')
  row.dataset.id = line.id
  const time = element('a', 'time', line.time ? clock(line.time) : '·')
  time.href = link
  time.tabIndex = -1
  time.title = shown(line.time)
  const mark = element('span', 'mark', line.mark ? MARKS[line.mark][0] : ' ')
  if (line.mark && MARKS[line.mark][1]) mark.title = MARKS[line.mark][1]
  const name = element('span', `name ${colourOf(`${line.source}[${line.process}]`)}`)
  if (line.source) name.append(filterElement('source', line.source))
  if (line.process) name.append('[', filterElement('process', line.process), ']')
  row.append(time, ' ', mark, ' ', name, ' ', message(shown(line.message), words))
  return row
}

function filterElement(kind, value) {
  const made = element('span', kind, shown(value))
  made.dataset.value = value
  made.title = `Only this ${kind}`
  return made
}

function message(text, words) {
  const made = element('span', 'message')
  if (!words) {
    made.textContent = text
    return made
  }
  const lower = text.toLowerCase()
  let start = 0
  if (lower.length === text.length) {
    for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, start)) {
      made.append(text.slice(start, at), element('mark', '', text.slice(at, at + words.length)))
      start = at + words.length
    }
  }
  made.append(text.slice(start))
  return made
}
