"""Models behind one protocol.

base             the protocol that every model keeps
resilience       retries, time limits, adaptive concurrency: wraps any model
breaker          whether a provider answers anybody at all
bulletin         what the workers of a run tell each other about a provider
litellm_engine   every provider that litellm knows; the one owner of that import
simulated        models that need no key and no network
cache            answers shared by the local tasks of a run
connect          a model's name becomes a client
"""
