"""A simulator of LaunchDarkly's Engineering Insights API, for demos and tests.

server      the HTTP server, its clock and its control routes
options     every option of the simulator
quota       rate-limit windows and their headers
api         the routes
  world       the deployments that exist, and when each becomes visible
  generator   deployments and pull requests made from a seed
  pages       the JSON of a deployment, page by page
  listing     the list calls
  events      posted deployment events
  flag_events what happened to flags, and when its impact is known
  reported_events  how many events were reported twice
responses   one call, one response, and the documented errors
rates       how often each fault hits a call
faults      what each fault does to a response
stats       counts of calls, responses and rate-limit windows
send        one signed webhook to any receiver
pipeline    a simulated CD system that reports and posts its deployments
plan        what that system does: releases, failures, rollbacks, flag changes

Only ``send`` imports another package of the project: it needs the webhook signature.
"""
