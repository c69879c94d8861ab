"""Settings for all tests."""

from hypothesis import settings

# A shared machine may pause a test at any moment: time says nothing about the law.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
