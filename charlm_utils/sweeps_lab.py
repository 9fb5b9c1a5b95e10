"""The recorded studies of appendix A2: perplexities on The Time Machine."""

from charlm_utils.sweeps import Study

STUDIES: dict[str, Study] = {}
