// Sends an event with the JavaScript SDK of CloudEvents: structured, binary, and two in a batch.
// Arguments: URL, token. Standard input: the attributes and the data of the event. Prints each response.
import { readFileSync } from 'node:fs'
import { CloudEvent, HTTP } from 'cloudevents'

const [url, token] = process.argv.slice(2)
const { data, ...attributes } = JSON.parse(readFileSync(0, 'utf8'))

function eventNamed(id) {
  return new CloudEvent({ ...attributes, id, data: { ...data, context: { ...data.context, id } } })
}

async function send({ headers, body }) {
  const all = { ...headers, authorization: `Bearer ${token}` }
  const response = await fetch(url, { method: 'POST', headers: all, body })
  console.log(JSON.stringify({ status: response.status, body: await response.json() }))
}

await send(HTTP.structured(eventNamed('js-structured')))
await send(HTTP.binary(eventNamed('js-binary')))
const batch = JSON.stringify([eventNamed('js-batch-1'), eventNamed('js-batch-2')])
await send({ headers: { 'content-type': 'application/cloudevents-batch+json' }, body: batch })
