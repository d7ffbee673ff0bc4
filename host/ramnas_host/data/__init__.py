"""Pictures with one label each, in splits, and the batches that every training draws."""
