"""The library under the benchmark.

errors          every way in which a run can go wrong
records         the words: frozen dataclasses that are passed on and written down
prompt          what is optimized, and how it becomes messages
serialization   one strict codec between records and JSON
"""
