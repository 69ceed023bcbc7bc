// Lints the OpenAPI and AsyncAPI documents with Redocly and Spectral. Prints each finding as a line of
// JSON, warnings too: node lint.js openapi.json asyncapi.json
import { readFileSync } from 'node:fs'
import { createConfig, lint } from '@redocly/openapi-core'
import spectralCore from '@stoplight/spectral-core'
import rulesets from '@stoplight/spectral-rulesets'

const { Spectral } = spectralCore
const { asyncapi, oas } = rulesets

async function lintByRedocly(file) {
  const config = await createConfig({ extends: ['recommended'] })
  const problems = await lint({ ref: file, config })
  return problems.map(({ ruleId, message, location }) => ({
    rule: `redocly ${ruleId}`, message, path: location[0]?.pointer ?? ''
  }))
}

async function lintBySpectral(file) {
  const spectral = new Spectral()
  spectral.setRuleset({ extends: [oas, asyncapi] })
  const findings = await spectral.run(readFileSync(file, 'utf8'))
  return findings.map(({ code, message, path }) => ({
    rule: `spectral ${code}`, message, path: path.join('/')
  }))
}

for (const file of process.argv.slice(2)) {
  const findings = [...await lintByRedocly(file), ...await lintBySpectral(file)]
  for (const finding of findings) console.log(JSON.stringify({ file, ...finding }))
}
