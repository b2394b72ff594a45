"""Settings shared by all tests: hypothesis repeats the same cases on every machine and is never timed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("cai", derandomize=True, deadline=None, max_examples=25, print_blob=True)
settings.load_profile("cai")
