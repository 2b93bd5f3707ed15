"""The workbench: a page that shows what a run did, live or finished, and a report that opens from disk.

A store computes frames from a run folder, plots turn frames into elements, views draw one question each, state says
what is selected, and the app arranges them. Reading a run never writes to it, except for its report.
"""
