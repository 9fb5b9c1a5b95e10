"""The recorded studies of chapter 9: models that learn to add."""

from charlm_utils.sweeps import Study

STUDIES: dict[str, Study] = {}
