"""Traces of a run in Opik: written down by the workers, sent by somebody else, now or later.

records    what a worker writes beside its journal, and how both are read: no network, no opik
target     where traces go, whether somebody is there, links
ids        ids that follow from what they name, so that sending twice changes nothing
rows       from records to rows of traces, spans, scores, experiments: pure functions
client     the one owner of opik
delivery   one task on its way: what is new, what was taken, what is left
exporter   all tasks of a run: a thread beside it, or a push afterwards
"""
