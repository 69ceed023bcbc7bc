"""A page with the four DORA measures, computed from the stream of enriched deployments.

deployments  what the page needs of a record
history      the deployments that were read, the last revision of each
measures     the four measures of some deployments
periods      the periods that a reader of the page can choose, and their parts
charts       bars and dots as SVG coordinates
format       numbers and times as text
views        what a page shows
pages        views as HTML
reader       reads the stream
server       serves the pages
"""
