"""What holds for every test, whichever modules a process happens to load."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# a busy machine is no failure: no example has a deadline, and drawing one may take as long as it takes
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
