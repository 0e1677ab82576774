// Asks @cloud-copilot/iam-simulate: one question a line on standard input, one answer a line out.
// The argument is the directory whose node_modules holds the package.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { join } from 'node:path'

const require = createRequire(join(process.argv[2], 'package.json'))
const { anonymousPrincipal, runSimulation } = require('@cloud-copilot/iam-simulate')

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line)
  const simulation = {
    request: {
      principal: question.principal === '*' ? anonymousPrincipal : question.principal,
      action: question.action,
      resource: { resource: question.key_arn, accountId: question.key_account },
      contextVariables: question.context
    },
    identityPolicies: question.identity_policies.map((policy, n) => ({ name: `${n}`, policy })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy: question.key_policy
  }
  const answer = await runSimulation(simulation, { simulationMode: 'Strict' })
  if (answer.resultType === 'error') {
    console.log(`error: ${JSON.stringify(answer.errors)}`)
  } else if (answer.result.ignoredContextKeys?.length) {
    console.log(`error: ignored ${answer.result.ignoredContextKeys}`)
  } else {
    console.log(answer.overallResult === 'Allowed' ? 'allowed' : 'denied')
  }
}
