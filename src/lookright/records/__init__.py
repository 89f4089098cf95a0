"""From stored records to batches: reading, checking, encoding, sampling."""
