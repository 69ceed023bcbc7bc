// Reads enriched deployments from the stream as a consumer of a group, with types from the schema.
//
//     npm ci && npm run read -- redis://127.0.0.1:6379 '{deployments}:enriched' 10
//
// The types are generated: enriched-deployment.ts comes from enriched-deployment.v1.json.
import { createClient } from 'redis'
import type { EnrichedDeployment } from './enriched-deployment.js'

const [url, stream, count] = [process.argv[2], process.argv[3], Number(process.argv[4])]
const group = 'typescript'

const client = url.startsWith('unix://')
  ? createClient({ socket: { path: url.slice('unix://'.length), tls: false } })
  : createClient({ url })
await client.connect()
await client.xGroupCreate(stream, group, '0', { MKSTREAM: true }).catch((error: Error) => {
  if (!error.message.startsWith('BUSYGROUP')) throw error
})

for (let seen = 0; seen < count; ) {
  const key = { key: stream, id: '>' }
  const reply = await client.xReadGroup(group, 'one', key, { COUNT: 100, BLOCK: 5000 })
  const streams = (reply ?? []) as { messages: { id: string; message: Record<string, string> }[] }[]
  for (const { id, message } of streams.flatMap(({ messages }) => messages)) {
    const record = JSON.parse(message.data) as EnrichedDeployment
    const { deployment, summary, revision, change } = record
    const previous = change?.previous?.version // what ran before; unknown if there is no change
    const flags = record.flagEvents?.map((event) => event.flagKey) // which were changed since; unknown by default
    const { authors } = summary
    console.log(JSON.stringify({ id: message.id, deployment: deployment.id, revision, authors, previous, flags }))
    await client.xAck(stream, group, id)
    seen += 1
  }
}
client.destroy()
