// Reads entries of the stream as the JavaScript SDK of CloudEvents and as ajv do. Standard input: a JSON
// object with the JSON Schema of a record and the fields of each entry. Prints the id of each event.
import { readFileSync } from 'node:fs'
import { CloudEvent } from 'cloudevents'
import Ajv2020 from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

const { schema, entries } = JSON.parse(readFileSync(0, 'utf8'))
const ajv = new Ajv2020.default({ strict: true, allErrors: true, allowUnionTypes: true })
addFormats.default(ajv)
const isRecord = ajv.compile(schema)
for (const { data, ...attributes } of entries) {
  const event = new CloudEvent({ ...attributes, data: JSON.parse(data) }) // raises for an invalid one
  if (!isRecord(event.data)) throw new Error(ajv.errorsText(isRecord.errors))
  console.log(event.id)
}
