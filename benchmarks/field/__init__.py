"""Our test sets through the field's own evaluators, VLMEvalKit and lmms-eval (docs/benchmarks_field.md)."""
