// Signs a body with the JavaScript libraries of Standard Webhooks and Svix, and posts it.
// Arguments: URL, secret. Standard input: the body. Prints each response.
import { readFileSync } from 'node:fs'
import { Webhook } from 'standardwebhooks'
import { Webhook as SvixWebhook } from 'svix'

const [url, secret] = process.argv.slice(2)
const body = readFileSync(0, 'utf8')
const libraries = { webhook: new Webhook(secret), svix: new SvixWebhook(secret) }
for (const [prefix, library] of Object.entries(libraries)) {
  const [id, at] = [`js-${prefix}`, new Date()]
  const headers = {
    'content-type': 'application/json',
    [`${prefix}-id`]: id,
    [`${prefix}-timestamp`]: String(Math.floor(at.getTime() / 1000)),
    [`${prefix}-signature`]: library.sign(id, at, body)
  }
  const response = await fetch(url, { method: 'POST', headers, body })
  console.log(JSON.stringify({ status: response.status, body: await response.json() }))
}
