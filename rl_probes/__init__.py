"""What agents and reward predictors can do with frozen object-centric representations."""
