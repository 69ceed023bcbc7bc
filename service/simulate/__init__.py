"""A LaunchDarkly on the table: quota windows, pages, faults.

quota      may this call be made?
api        what is the answer?
  world        which deployments exist, and when are they seen?
  invention    what does one look like that nobody made?
  pages        how is it written, page by page?
  listing      which of them does a list call get?
  events       what does a posted event do?
faults     what goes wrong with this call?
spoil      what is then left of the answer?
server     the rest: HTTP, the clock, and the knobs
"""
