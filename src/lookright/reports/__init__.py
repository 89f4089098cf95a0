"""Self-contained HTML pages: what was generated, what was answered, what tuning changed."""
