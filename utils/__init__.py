"""The library under the benchmark.

errors          every way in which a run can go wrong
records         the words: frozen dataclasses that are passed on and written down
prompt          what is optimized, and how it becomes messages
serialization   one strict codec between records and JSON
values          what people write as YAML, without its traps
imports         what takes seconds to import, one thread at a time
interrupts      Ctrl-C where no run is going on
redaction       keys are not shown, logged, or written into a plan
"""
