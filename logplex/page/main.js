// The page: who is signed in, and which app is shown. The address behind `#` is the place, and never leaves the browser.

import * as api from './api.js'
import { Apps } from './apps.js'
import { AppView } from './app.js'
import { fromHash, toHash } from './filters.js'

const at = (id) => document.getElementById(id)

let signedIn = false

const apps = new Apps({
  search: at('app-search'), list: at('app-list'), more: at('app-more'), note: at('app-note'),
  worked: () => view.place.app || told('', ''), failed,
})
const view = new AppView({ told, moved, failed })

function told(text, kind) {
  const status = at('status')
  if (status.textContent !== text) status.textContent = text
  status.dataset.kind = kind
}

// Another filter on the same app is no other page: going back leaves the app.
function moved(place) {
  const hash = toHash(place)
  if (hash === location.hash) return
  history.replaceState(null, '', hash)
  route()
}

function failed(error) {
  if (error.status === 401 && signedIn) askToSignIn('You were signed out.')
  else if (!view.place.app) told(error.message, 'lost') // an app's tail says it itself
}

function route({ focus = false } = {}) {
  if (!signedIn) return
  const place = fromHash(location.hash)
  at('house').classList.toggle('in-app', Boolean(place.app))
  at('nothing').hidden = Boolean(place.app)
  at('app').hidden = !place.app
  document.title = place.app ? `${place.app} · logplex` : 'logplex'
  apps.show(place.app)
  if (place.app) view.show(place)
  else {
    view.close()
    told('', '')
  }
  if (focus) (place.app ? at('app-name') : at('app-search')).focus({ preventScroll: true })
}

function enter(name) {
  signedIn = true
  at('name').textContent = name
  at('who').hidden = at('house').hidden = false
  at('sign-in').hidden = true
  apps.start()
  route()
}

function askToSignIn(text = '') {
  signedIn = false
  view.close()
  apps.stop()
  told('', '')
  at('who').hidden = at('house').hidden = true
  at('sign-in').hidden = false
  at('sign-in-error').textContent = text
  at('id').focus()
}

at('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  let [id, password] = [at('id').value.trim(), at('password').value]
  if (!password && id.includes(':')) [id, password] = id.split(/:(.*)/s) // the whole line was pasted
  at('sign-in-error').textContent = ''
  try {
    const name = await api.signIn(id, password.trim())
    at('id').value = at('password').value = ''
    enter(name)
  } catch (error) {
    const texts = { 401: 'That is not a credential of this server.', 429: 'Too many failed attempts: wait a minute.' }
    at('sign-in-error').textContent = texts[error.status] ?? error.message
    at('password').select()
  }
})

at('sign-out').addEventListener('click', async () => {
  try {
    await api.signOut()
  } catch (error) {
    if (error.status === 0) return told(error.message, 'lost')
  }
  return askToSignIn()
})

addEventListener('hashchange', () => route({ focus: true }))

async function begin() {
  try {
    const name = await api.me()
    if (name) enter(name)
    else askToSignIn()
  } catch (error) {
    told(error.message, 'lost')
    setTimeout(begin, 2000)
  }
}

begin()
