// Validates the AsyncAPI document with the official parser.
import { readFileSync } from 'node:fs'
import { Parser } from '@asyncapi/parser'

const file = new URL('../../contracts/asyncapi.json', import.meta.url)
const findings = await new Parser().validate(readFileSync(file, 'utf8'))
const errors = findings.filter(({ severity }) => severity === 0)
for (const { message, path } of errors) console.error(path.join('.'), message)
process.exit(errors.length ? 1 : 0)
