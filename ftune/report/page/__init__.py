"""The report of one run, or of several beside each other: one HTML file that needs nothing but itself.

What a run has left is read by `ftune.report.run_record`; each section is a function from runs to plain values, and
`page.html.jinja` alone says how they look. There is no script in the page, and all text of a run is escaped by jinja.
"""
