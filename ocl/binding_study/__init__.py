"""IsSameObject over all layers of a model in one table, with every control beside it."""
