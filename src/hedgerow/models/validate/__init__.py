"""Hold a new build of a model against a reference: figures, limits, report."""
