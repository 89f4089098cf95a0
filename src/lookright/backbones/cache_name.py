"""What transformers calls the cache of keys and values: `cache` from 5.24 on, `past_key_values` before."""

import inspect

from transformers.masking_utils import create_causal_mask

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
